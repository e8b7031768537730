"""The report card of a RUN folder: what lies in the folder goes in, one page comes out."""
