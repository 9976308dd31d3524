"""`make demo`: two hosts share compiled graphs, with real daemons, real graphs and a stand-in compiler."""
