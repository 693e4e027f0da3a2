# The change of LifseaOS 3.6 from 3.5: metadata is requested with a token where the service is in its hardened mode.
install -m 644 "$LINE/metadata" usr/share/lifsea/
