"""The commands of the console script, one file each; the tools of the same name call them too."""
