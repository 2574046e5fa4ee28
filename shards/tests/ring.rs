//! The sockets of SMTP over a core's own io_uring, against plain sockets of the standard library.

#![allow(clippy::unwrap_used, reason = "in a test, a panic is the report")]
#![allow(clippy::disallowed_methods, clippy::disallowed_types, reason = "the other end is a thread with plain sockets")]

use glommio::LocalExecutorBuilder;
use mailrace_shards::runtime::clock;
use mailrace_shards::runtime::ring::Ring;
use mailrace_shards::runtime::stream::{Listener, Stream};
use mailrace_shards::time::Instant;
use socket2::{Domain, Protocol, Socket, Type};
use std::cell::Cell;
use std::future::{Future, poll_fn};
use std::io::{ErrorKind, Read, Write};
use std::net::{Ipv4Addr, Shutdown, SocketAddr, TcpListener, TcpStream};
use std::rc::Rc;
use std::sync::mpsc;
use std::thread;
use std::time::Duration;

const PATIENCE: Duration = Duration::from_secs(20);

/// Runs `test` on an executor with a ring whose task runs.
fn with_ring<F: Future<Output = ()> + 'static>(test: impl FnOnce(Ring) -> F + Send + 'static) {
    let executor = LocalExecutorBuilder::default().io_memory(0).make().unwrap();
    executor.run(async move {
        let ring = Ring::new().unwrap();
        let served = ring.clone();
        glommio::spawn_local(async move { served.run(|| false, || None).await.unwrap() }).detach();
        // On a busy machine an executor without a ticker may sleep over a task that is ready; see `runtime::executor`.
        let ticker = async {
            loop {
                glommio::timer::sleep(Duration::from_millis(10)).await;
            }
        };
        glommio::spawn_local(ticker).detach();
        let done = glommio::timer::timeout(PATIENCE, async {
            test(ring).await;
            Ok(())
        });
        done.await.expect("the test ends in time");
    });
}

/// A plain listener, and a connection to it that was begun.
fn begin(ring: &Ring) -> (TcpListener, Stream) {
    let listener = TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).unwrap();
    let stream = connect(listener.local_addr().unwrap(), ring);
    (listener, stream)
}

fn connect(address: SocketAddr, ring: &Ring) -> Stream {
    let socket = Socket::new(Domain::IPV4, Type::STREAM, Some(Protocol::TCP)).unwrap();
    socket.set_nonblocking(true).unwrap();
    socket.set_tcp_nodelay(true).unwrap();
    if let Err(error) = socket.connect(&address.into()) {
        assert_eq!(error.raw_os_error(), Some(libc::EINPROGRESS));
    }
    Stream::new(socket, ring)
}

/// Waits for a thread without holding up the executor.
async fn ended<R>(thread: thread::JoinHandle<R>) -> R {
    while !thread.is_finished() {
        glommio::timer::sleep(Duration::from_millis(1)).await;
    }
    thread.join().unwrap()
}

async fn connected(stream: &Stream) -> std::io::Result<()> {
    poll_fn(|cx| stream.poll_connected(cx)).await
}

async fn write_all(stream: &Stream, mut octets: &[u8]) {
    while !octets.is_empty() {
        let sent = poll_fn(|cx| stream.poll_write(cx, octets)).await.unwrap();
        octets = &octets[sent..];
    }
}

async fn read_some(stream: &Stream, buffer: &mut [u8]) -> usize {
    poll_fn(|cx| stream.poll_read(cx, buffer)).await.unwrap()
}

async fn read_to_end(stream: &Stream) -> Vec<u8> {
    let mut all = Vec::new();
    let mut buffer = vec![0; 10_000];
    loop {
        match read_some(stream, &mut buffer).await {
            0 => return all,
            count => all.extend_from_slice(&buffer[..count]),
        }
    }
}

fn pattern(octets: usize) -> Vec<u8> {
    (0..octets).map(|at| (at % 251) as u8).collect()
}

#[test]
fn much_passes_both_ways_while_the_other_end_dawdles() {
    with_ring(|ring| async move {
        let (listener, stream) = begin(&ring);
        let echo = thread::spawn(move || {
            let (mut peer, _) = listener.accept().unwrap();
            let mut buffer = vec![0; 300_000];
            loop {
                let count = peer.read(&mut buffer).unwrap();
                if count == 0 {
                    return;
                }
                thread::sleep(Duration::from_millis(1));
                peer.write_all(&buffer[..count]).unwrap();
            }
        });
        connected(&stream).await.unwrap();
        let sent = pattern(6 << 20);
        let mut come = Vec::new();
        let mut at = 0;
        let mut buffer = vec![0; 7_001];
        while come.len() < sent.len() {
            poll_fn(|cx| {
                let mut moved = false;
                if at < sent.len()
                    && let std::task::Poll::Ready(count) = stream.poll_write(cx, &sent[at..])
                {
                    at += count.unwrap();
                    moved = true;
                }
                if let std::task::Poll::Ready(count) = stream.poll_read(cx, &mut buffer) {
                    let count = count.unwrap();
                    assert!(count > 0, "the peer has not ended");
                    come.extend_from_slice(&buffer[..count]);
                    moved = true;
                }
                if moved { std::task::Poll::Ready(()) } else { std::task::Poll::Pending }
            })
            .await;
        }
        assert!(come == sent, "every octet comes back, in order");
        stream.shut_down();
        ended(echo).await;
    });
}

#[test]
fn what_is_unsent_still_goes_after_the_peer_has_ended_its_own_half() {
    with_ring(|ring| async move {
        let (listener, stream) = begin(&ring);
        let peer = thread::spawn(move || {
            let (mut peer, _) = listener.accept().unwrap();
            peer.write_all(b"last words").unwrap();
            peer.shutdown(Shutdown::Write).unwrap();
            thread::sleep(Duration::from_millis(50));
            let mut all = Vec::new();
            peer.read_to_end(&mut all).unwrap();
            all
        });
        connected(&stream).await.unwrap();
        assert_eq!(read_to_end(&stream).await, b"last words");
        let sent = pattern(8 << 20);
        write_all(&stream, &sent).await;
        drop(stream);
        assert!(ended(peer).await == sent, "every octet comes, in order");
    });
}

#[test]
fn a_connection_that_is_refused_says_so() {
    with_ring(|ring| async move {
        let (listener, stream) = begin(&ring);
        let address = listener.local_addr().unwrap();
        drop(listener);
        drop(stream);
        let refused = connect(address, &ring);
        assert_eq!(connected(&refused).await.unwrap_err().kind(), ErrorKind::ConnectionRefused);
    });
}

#[test]
fn a_dropped_connection_is_closed_and_its_place_serves_the_next() {
    with_ring(|ring| async move {
        for _ in 0..50 {
            let (listener, stream) = begin(&ring);
            connected(&stream).await.unwrap();
            let (mut peer, _) = listener.accept().unwrap();
            let end = thread::spawn(move || {
                peer.set_read_timeout(Some(PATIENCE)).unwrap();
                peer.read(&mut [0; 1]).unwrap()
            });
            // Somebody waits for octets when it goes.
            let waiting = glommio::spawn_local(async move { read_some(&stream, &mut [0; 1]).await });
            glommio::executor().yield_task_queue_now().await;
            waiting.cancel().await;
            assert_eq!(ended(end).await, 0, "the peer hears of the end");
        }
    });
}

#[test]
fn a_listener_accepts_all_of_a_crowd() {
    with_ring(|ring| async move {
        let socket = Socket::new(Domain::IPV4, Type::STREAM, Some(Protocol::TCP)).unwrap();
        socket.bind(&SocketAddr::from(([127, 0, 0, 1], 0)).into()).unwrap();
        socket.listen(256).unwrap();
        let address = socket.local_addr().unwrap().as_socket().unwrap();
        let listener = Listener::new(socket, &ring).unwrap();
        let crowd = thread::spawn(move || {
            let all: Vec<TcpStream> = (0..200).map(|_| TcpStream::connect(address).unwrap()).collect();
            for (at, mut one) in all.into_iter().enumerate() {
                let word = [u8::try_from(at).unwrap(); 3];
                one.write_all(&word).unwrap();
                let mut answer = [0; 3];
                one.read_exact(&mut answer).unwrap();
                assert_eq!(answer, word);
            }
        });
        for _ in 0..200 {
            let stream = listener.accept().await.unwrap();
            glommio::spawn_local(async move {
                let mut word = [0; 8];
                let count = read_some(&stream, &mut word).await;
                write_all(&stream, &word[..count]).await;
            })
            .detach();
        }
        ended(crowd).await;
    });
}

#[test]
fn more_events_than_the_ring_holds_lose_none() {
    with_ring(|_| async move {
        let ring = Ring::with_room(4).unwrap();
        let served = ring.clone();
        glommio::spawn_local(async move { served.run(|| false, || None).await.unwrap() }).detach();
        let mut pairs = Vec::new();
        for _ in 0..100 {
            let (listener, stream) = begin(&ring);
            connected(&stream).await.unwrap();
            let (peer, _) = listener.accept().unwrap();
            pairs.push((stream, peer));
        }
        for round in 0..5 {
            let mut readers = Vec::new();
            let mut peers = Vec::new();
            for (stream, peer) in pairs {
                peers.push(peer);
                readers.push(glommio::spawn_local(async move {
                    assert_eq!(read_some(&stream, &mut [0; 16]).await, 1);
                    stream
                }));
            }
            glommio::timer::sleep(Duration::from_millis(5)).await;
            // On this very thread, so that the ring's task cannot run before all have happened.
            for peer in &mut peers {
                peer.write_all(&[round]).unwrap();
            }
            pairs = Vec::new();
            for (reader, peer) in readers.into_iter().zip(peers) {
                pairs.push((reader.await, peer));
            }
        }
    });
}

/// How long the core may sleep in its ring; in a test that is for ever, until it is set to none.
type Leisure = Rc<Cell<Option<Instant>>>;

fn for_ever() -> Leisure {
    Rc::new(Cell::new(Some(clock::now().instant.after(Duration::from_secs(3600)))))
}

#[test]
fn a_core_asleep_in_its_ring_hears_of_other_threads() {
    const LETTERS: usize = 200;
    let executor = LocalExecutorBuilder::default().io_memory(0).make().unwrap();
    executor.run(async {
        let ring = Ring::new().unwrap();
        let alert = ring.alert().clone();
        let (letters, lane) = mpsc::channel();
        let (heard, answers) = mpsc::channel();
        let leisure = for_ever();
        let of_task = leisure.clone();
        let inbox = move || {
            let Ok(letter) = lane.try_recv() else { return false };
            if letter + 1 == LETTERS {
                leisure.set(None);
            }
            heard.send(letter).unwrap();
            true
        };
        glommio::spawn_local(async move { ring.run(inbox, || of_task.get()).await.unwrap() }).detach();
        let sender = thread::spawn(move || {
            for letter in 0..LETTERS {
                // Sometimes it sleeps by then, sometimes it is about to.
                thread::sleep(Duration::from_micros(letter as u64 * 10));
                letters.send(letter).unwrap();
                alert.sound();
                assert_eq!(answers.recv_timeout(PATIENCE), Ok(letter));
            }
        });
        ended(sender).await;
    });
}

#[test]
fn a_core_asleep_in_its_ring_serves_its_sockets() {
    let executor = LocalExecutorBuilder::default().io_memory(0).make().unwrap();
    executor.run(async {
        let ring = Ring::new().unwrap();
        let (listener, stream) = begin(&ring);
        let echo = thread::spawn(move || {
            let (mut peer, _) = listener.accept().unwrap();
            peer.set_read_timeout(Some(PATIENCE)).unwrap();
            let mut word = [0; 4];
            for _ in 0..200 {
                peer.read_exact(&mut word).unwrap();
                peer.write_all(&word).unwrap();
            }
        });
        let leisure = for_ever();
        let of_task = leisure.clone();
        let conversation = glommio::spawn_local(async move {
            connected(&stream).await.unwrap();
            for _ in 0..200 {
                write_all(&stream, b"word").await;
                let mut come = 0;
                while come < 4 {
                    come += read_some(&stream, &mut [0; 4]).await;
                }
            }
            leisure.set(None);
        });
        glommio::spawn_local(async move { ring.run(|| false, || of_task.get()).await.unwrap() }).detach();
        conversation.await;
        ended(echo).await;
    });
}
