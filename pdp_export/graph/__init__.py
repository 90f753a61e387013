"""The captured program and what flows along its channel axes; knows no masks and no runtimes."""
