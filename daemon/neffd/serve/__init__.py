"""What people, monitors and clients talk to: the socket protocol, the HTTP pages."""
