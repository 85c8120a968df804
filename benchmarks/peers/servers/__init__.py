"""The peers' servers, each run as a script by its own environment's interpreter. None imports anything of tritext."""
