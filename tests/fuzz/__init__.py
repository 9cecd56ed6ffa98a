"""One fuzz test per decoder: any input is decoded or refused with the documented error, and nothing else happens."""
