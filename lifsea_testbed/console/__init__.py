"""The serial console's transcript, the command channel to a root shell, and the access methods that open one."""
