//! Each thing that keeps the engine from starting, and the words for it.

use super::{LISTENER_TRIES, io_uring_remedy, listener, listener_in_the_end};
use rustix::io::Errno;
use std::net::TcpListener;

#[test]
fn io_uring_refusals_name_their_remedy() {
    for (errno, sysctl, expected) in [
        (Errno::PERM, "2", "sysctl -w kernel.io_uring_disabled=0"),
        (Errno::PERM, "1", "kernel.io_uring_group"),
        (Errno::PERM, "0", "SystemCallFilter=io_uring_setup"),
        (Errno::PERM, "", "SystemCallFilter=io_uring_setup"),
        (Errno::NOSYS, "", "CONFIG_IO_URING"),
        (Errno::NOMEM, "0", "LimitMEMLOCK=infinity"),
        (Errno::MFILE, "0", "LimitNOFILE"),
        (Errno::INVAL, "0", "io_uring_setup(2)"),
    ] {
        let text = io_uring_remedy(errno, sysctl);
        assert!(text.starts_with("io_uring cannot be used") && text.contains(expected), "{text}");
    }
}

/// The shards' own SO_REUSEPORT must not hide that somebody else, with the same option, has the address.
#[test]
fn a_reuseport_listener_of_another_is_seen() {
    use socket2::{Domain, Socket, Type};
    let other = Socket::new(Domain::IPV4, Type::STREAM, None).unwrap();
    other.set_reuse_port(true).unwrap();
    other.bind(&"127.0.0.1:0".parse::<std::net::SocketAddr>().unwrap().into()).unwrap();
    other.listen(1).unwrap();
    let address = TcpListener::from(other.try_clone().unwrap()).local_addr().unwrap();
    let error = listener("smtp.listen", address).unwrap_err();
    assert!(error.contains("another process holds it") && error.contains(&address.to_string()), "{error}");
    drop(other);
    listener("smtp.listen", address).unwrap();
}

#[test]
fn an_address_of_another_host_is_named() {
    let error = listener("api.listen", "192.0.2.1:8000".parse().unwrap()).unwrap_err();
    assert!(error.contains("this host does not have that address"), "{error}");
}

#[test]
fn an_address_that_is_given_up_late_is_waited_for() {
    let other = TcpListener::bind("127.0.0.1:0").unwrap();
    let address = other.local_addr().unwrap();
    let (asked, go) = std::sync::mpsc::channel::<()>();
    let holder = std::thread::spawn(move || {
        go.recv().unwrap();
        drop(other);
    });
    assert!(listener_in_the_end("smtp.listen", address, 2).is_err(), "not for ever");
    asked.send(()).unwrap();
    assert_eq!(listener_in_the_end("smtp.listen", address, LISTENER_TRIES), Ok(()));
    holder.join().unwrap();
}
