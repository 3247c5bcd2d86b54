"""Whether a training fits a device, and what it costs there at the least, before it is started."""
