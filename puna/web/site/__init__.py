"""The pages: accounts, chat, annotation, quality, red teaming, in the browser.

A module here is one page's routes. What they know they keep in `puna.store`, in functions that know
no HTTP; pages are Jinja templates with a script of their own in static/, and speak JSON with
/api/. Every route says who may take it (`routes.Routes`); there is no route that does not.
"""
