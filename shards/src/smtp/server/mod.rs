//! Server side of SMTP (injection).
