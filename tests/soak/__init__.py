"""`make soak`: hosts and trainers killed at random under a faulty Hub; ends with a line of figures."""
