"""The REST front end: one thin file per resource, and what turns bodies into items and answers into JSON."""
