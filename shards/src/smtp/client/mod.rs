//! Client side of SMTP (delivery).
