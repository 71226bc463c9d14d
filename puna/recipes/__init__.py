"""Recipes: one file is one arrow of the paper's Figure 4: reads files, shows its loop, writes."""
