"""Recipes: one file is one arrow of the paper's Figure 4. Each reads files, shows its loop, and writes files."""
