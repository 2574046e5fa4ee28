//! A destination: an SMTP server of the tests' own, with threads, that does what a script says and remembers
//! everything.

use super::certificate::Certificate;
use super::received::Received;
use super::valve::Valve;
use super::wait::{PATIENCE, moment, until};
use super::wire::Wire;
use socket2::{Domain, Socket, Type};
use std::io;
use std::net::{IpAddr, Ipv4Addr, Shutdown, SocketAddr, TcpListener, TcpStream};
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::sync::{Arc, Mutex};
use std::thread::JoinHandle;

/// What EHLO offers.
#[derive(Clone, Debug)]
pub struct Features {
    /// PIPELINING.
    pub pipelining: bool,
    /// CHUNKING.
    pub chunking: bool,
    /// SMTPUTF8.
    pub smtputf8: bool,
    /// 8BITMIME.
    pub eight_bit: bool,
    /// STARTTLS, with this certificate.
    pub starttls: Option<Certificate>,
}

impl Default for Features {
    fn default() -> Self {
        Self { pipelining: true, chunking: false, smtputf8: true, eight_bit: true, starttls: None }
    }
}

/// Where a conversation stands when the script is asked.
#[derive(Debug)]
pub enum Step<'a> {
    /// A client has connected; number of the connection.
    Connected(usize),
    /// EHLO or HELO.
    Hello,
    /// STARTTLS.
    StartTls,
    /// MAIL: reverse-path.
    Mail(&'a str),
    /// RCPT: forward-path.
    Recipient(&'a str),
    /// DATA.
    Data,
    /// A message is complete. With `Action::Default` it is accepted.
    Message(&'a Received),
}

/// What the script wants done. A script may also block; only its connection waits then.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Action {
    /// What a willing server does.
    Default,
    /// This reply, without CRLF; may have several lines.
    Reply(String),
    /// Close the connection without a word.
    Drop,
    /// This reply, then close.
    ReplyAndDrop(String),
    /// Say 220 to STARTTLS, then break the handshake.
    BreakTls,
}

impl Action {
    /// A reply.
    pub fn reply(text: &str) -> Self {
        Self::Reply(text.to_owned())
    }
}

type Script = dyn Fn(&Step<'_>) -> Action + Send + Sync;

struct State {
    features: Mutex<Features>,
    script: Mutex<Arc<Script>>,
    valve: Arc<Valve>,
    messages: Mutex<Vec<Received>>,
    connections: AtomicUsize,
    open: AtomicUsize,
    most_open: AtomicUsize,
    streams: Mutex<Vec<TcpStream>>,
    ending: AtomicBool,
}

/// A listening destination. Ends when dropped.
pub struct Sink {
    /// Where it listens.
    pub address: SocketAddr,
    state: Arc<State>,
    acceptor: Option<JoinHandle<()>>,
}

impl Sink {
    /// On a port of the system's choice.
    pub fn start(features: Features) -> Self {
        Self::start_at(SocketAddr::from(([127, 0, 0, 1], 0)), features)
    }

    /// At this address.
    pub fn start_at(address: SocketAddr, features: Features) -> Self {
        Self::over(TcpListener::bind(address).unwrap(), features)
    }

    /// With receive buffers of about this many octets, on a port of the system's choice.
    pub fn start_narrow(buffer: usize, features: Features) -> Self {
        let socket = Socket::new(Domain::IPV4, Type::STREAM, None).unwrap();
        // Connections inherit it; set before they are there, so that no window is larger.
        socket.set_recv_buffer_size(buffer).unwrap();
        socket.bind(&SocketAddr::from(([127, 0, 0, 1], 0)).into()).unwrap();
        socket.listen(128).unwrap();
        Self::over(socket.into(), features)
    }

    fn over(listener: TcpListener, features: Features) -> Self {
        let address = listener.local_addr().unwrap();
        let state = Arc::new(State {
            features: Mutex::new(features),
            script: Mutex::new(Arc::new(|_: &Step<'_>| Action::Default)),
            valve: Arc::default(),
            messages: Mutex::default(),
            connections: AtomicUsize::new(0),
            open: AtomicUsize::new(0),
            most_open: AtomicUsize::new(0),
            streams: Mutex::default(),
            ending: AtomicBool::new(false),
        });
        let accepting = state.clone();
        let acceptor = std::thread::spawn(move || accept(&listener, &accepting));
        Self { address, state, acceptor: Some(acceptor) }
    }

    /// Changes what it does, from the next step of any conversation.
    pub fn script(&self, script: impl Fn(&Step<'_>) -> Action + Send + Sync + 'static) {
        *self.state.script.lock().unwrap() = Arc::new(script);
    }

    /// Changes what it offers, from the next EHLO.
    pub fn offer(&self, features: Features) {
        *self.state.features.lock().unwrap() = features;
    }

    /// How fast it reads.
    pub fn valve(&self) -> &Valve {
        &self.state.valve
    }

    /// Every message that came completely, whatever was answered.
    pub fn attempts(&self) -> Vec<Received> {
        self.state.messages.lock().unwrap().clone()
    }

    /// Every message that was accepted.
    pub fn messages(&self) -> Vec<Received> {
        self.state.messages.lock().unwrap().iter().filter(|message| message.code / 100 == 2).cloned().collect()
    }

    /// How many messages were accepted.
    pub fn count(&self) -> usize {
        self.state.messages.lock().unwrap().iter().filter(|message| message.code / 100 == 2).count()
    }

    /// Waits until so many messages were accepted, and gives them.
    pub fn await_messages(&self, count: usize) -> Vec<Received> {
        until(&format!("{count} messages at the destination"), || self.count() >= count);
        self.messages()
    }

    /// Forgets all messages.
    pub fn clear(&self) {
        self.state.messages.lock().unwrap().clear();
    }

    /// Connections so far.
    pub fn connections(&self) -> usize {
        self.state.connections.load(Ordering::SeqCst)
    }

    /// Connections that stand.
    pub fn open_connections(&self) -> usize {
        self.state.open.load(Ordering::SeqCst)
    }

    /// Most connections that stood at once.
    pub fn most_open_connections(&self) -> usize {
        self.state.most_open.load(Ordering::SeqCst)
    }

    /// Breaks all connections.
    pub fn break_connections(&self) {
        for stream in self.state.streams.lock().unwrap().drain(..) {
            let _ = stream.shutdown(Shutdown::Both);
        }
    }
}

impl Drop for Sink {
    fn drop(&mut self) {
        self.state.ending.store(true, Ordering::SeqCst);
        // The acceptor looks at the flag after each connection.
        let _ = TcpStream::connect(self.address);
        if let Some(acceptor) = self.acceptor.take() {
            let _ = acceptor.join();
        }
        self.break_connections();
    }
}

fn accept(listener: &TcpListener, state: &Arc<State>) {
    loop {
        let accepted = listener.accept();
        if state.ending.load(Ordering::SeqCst) {
            return;
        }
        let Ok((stream, _)) = accepted else { continue };
        let number = state.connections.fetch_add(1, Ordering::SeqCst);
        state.streams.lock().unwrap().push(stream.try_clone().unwrap());
        let state = state.clone();
        std::thread::spawn(move || {
            let open = state.open.fetch_add(1, Ordering::SeqCst) + 1;
            state.most_open.fetch_max(open, Ordering::SeqCst);
            let _ = stream.set_read_timeout(Some(PATIENCE));
            let peer = stream.try_clone();
            // Whatever ends a conversation ends only that.
            let mut conversation = Conversation::new(state.clone(), number, stream);
            let _ = conversation.converse();
            conversation.leave();
            let _ = peer.map(|peer| peer.shutdown(Shutdown::Both));
        });
    }
}

/// One connection.
struct Conversation {
    state: Arc<State>,
    number: usize,
    client: IpAddr,
    hello: String,
    /// It still counts among those that stand.
    counted: bool,
    wire: Wire,
    sender: Option<(String, String)>,
    recipients: Vec<String>,
    /// Of BDAT, so far.
    chunks: Option<Vec<u8>>,
}

/// The conversation is over.
struct End;

impl From<io::Error> for End {
    fn from(_: io::Error) -> Self {
        Self
    }
}

impl Conversation {
    fn new(state: Arc<State>, number: usize, stream: TcpStream) -> Self {
        let client = stream.peer_addr().map_or(IpAddr::V4(Ipv4Addr::UNSPECIFIED), |peer| peer.ip());
        Self {
            number,
            client,
            hello: String::new(),
            counted: true,
            wire: Wire::with_valve(stream, state.valve.clone(), number),
            state,
            sender: None,
            recipients: Vec::new(),
            chunks: None,
        }
    }

    fn converse(&mut self) -> Result<(), End> {
        self.step(&Step::Connected(self.number), "220 sink.example ESMTP")?;
        loop {
            let line = self.wire.read_line()?;
            let line = String::from_utf8(line).map_err(|_| End)?;
            let line = line.strip_suffix("\r\n").ok_or(End)?.to_owned();
            let verb = line.split([' ', ':']).next().unwrap_or("").to_ascii_uppercase();
            match verb.as_str() {
                "EHLO" | "HELO" => {
                    self.hello = line[4..].trim().to_owned();
                    self.hello(verb == "EHLO")?;
                }
                "STARTTLS" => self.start_tls()?,
                "MAIL" => self.mail(&line)?,
                "RCPT" => self.recipient(&line)?,
                "DATA" => self.data()?,
                "BDAT" => self.chunk(&line)?,
                "RSET" => {
                    self.reset();
                    self.say("250 2.0.0 reset")?;
                }
                "NOOP" => self.say("250 2.0.0 still here")?,
                "QUIT" => {
                    // Who has heard the answer may come again at once.
                    self.leave();
                    self.say("221 2.0.0 good bye")?;
                    return Ok(());
                }
                _ => self.say("500 5.5.2 what?")?,
            }
        }
    }

    fn leave(&mut self) {
        if std::mem::take(&mut self.counted) {
            self.state.open.fetch_sub(1, Ordering::SeqCst);
        }
    }

    fn say(&mut self, reply: &str) -> Result<(), End> {
        Ok(self.wire.write(format!("{}\r\n", reply.replace('\n', "\r\n")).as_bytes())?)
    }

    fn ask(&self, step: &Step<'_>) -> Action {
        let script = self.state.script.lock().unwrap().clone();
        script(step)
    }

    /// Asks the script and answers. Gives the reply's code.
    fn step(&mut self, step: &Step<'_>, default: &str) -> Result<u16, End> {
        let (reply, drop) = match self.ask(step) {
            Action::Default => (default.to_owned(), false),
            Action::Reply(reply) => (reply, false),
            Action::ReplyAndDrop(reply) => (reply, true),
            Action::Drop | Action::BreakTls => return Err(End),
        };
        self.say(&reply)?;
        if drop { Err(End) } else { Ok(code(&reply)) }
    }

    fn hello(&mut self, extended: bool) -> Result<(), End> {
        self.reset();
        let features = self.state.features.lock().unwrap().clone();
        let mut lines = vec!["sink.example"];
        if extended {
            lines.push("ENHANCEDSTATUSCODES");
            let offered = [
                (features.pipelining, "PIPELINING"),
                (features.chunking, "CHUNKING"),
                (features.smtputf8, "SMTPUTF8"),
                (features.eight_bit, "8BITMIME"),
                (features.starttls.is_some() && !self.wire.is_tls(), "STARTTLS"),
            ];
            lines.extend(offered.iter().filter(|(on, _)| *on).map(|(_, name)| *name));
        }
        let last = lines.len() - 1;
        let reply: Vec<String> = lines
            .iter()
            .enumerate()
            .map(|(at, line)| format!("250{}{line}", if at == last { ' ' } else { '-' }))
            .collect();
        self.step(&Step::Hello, &reply.join("\n")).map(drop)
    }

    fn start_tls(&mut self) -> Result<(), End> {
        let certificate = self.state.features.lock().unwrap().starttls.clone();
        let Some(certificate) = certificate.filter(|_| !self.wire.is_tls()) else {
            return self.say("502 5.5.1 no TLS here");
        };
        match self.ask(&Step::StartTls) {
            Action::Default => {
                self.say("220 2.0.0 go ahead")?;
                self.reset();
                Ok(self.wire.start_server(certificate.server())?)
            }
            Action::Reply(reply) => self.say(&reply),
            Action::BreakTls => {
                self.say("220 2.0.0 go ahead")?;
                self.say("this is no handshake")?;
                Err(End)
            }
            Action::Drop | Action::ReplyAndDrop(_) => Err(End),
        }
    }

    fn mail(&mut self, line: &str) -> Result<(), End> {
        let (path, parameters) = path_of(line)?;
        if self.step(&Step::Mail(&path), "250 2.1.0 sender ok")? == 250 {
            self.sender = Some((path, parameters));
        }
        Ok(())
    }

    fn recipient(&mut self, line: &str) -> Result<(), End> {
        if self.sender.is_none() {
            return self.say("503 5.5.1 MAIL first");
        }
        let (path, _) = path_of(line)?;
        if self.step(&Step::Recipient(&path), "250 2.1.5 recipient ok")? == 250 {
            self.recipients.push(path);
        }
        Ok(())
    }

    fn data(&mut self) -> Result<(), End> {
        if self.recipients.is_empty() {
            return self.say("554 5.5.1 no valid recipients");
        }
        if self.step(&Step::Data, "354 go ahead")? != 354 {
            return Ok(());
        }
        let mut content = Vec::new();
        loop {
            let line = self.wire.read_line()?;
            match line.as_slice() {
                b".\r\n" => break,
                [b'.', rest @ ..] => content.extend_from_slice(rest),
                [] => return Err(End),
                line => content.extend_from_slice(line),
            }
        }
        self.complete(content, false)
    }

    fn chunk(&mut self, line: &str) -> Result<(), End> {
        let mut words = line.split(' ').skip(1);
        let size: usize = words.next().ok_or(End)?.parse().map_err(|_| End)?;
        let octets = self.wire.read_exact(size)?;
        if self.recipients.is_empty() {
            self.chunks = None;
            return self.say("554 5.5.1 no valid recipients");
        }
        self.chunks.get_or_insert_default().extend_from_slice(&octets);
        match words.next() {
            Some("LAST") => {
                let content = self.chunks.take().unwrap_or_default();
                self.complete(content, true)
            }
            Some(_) => Err(End),
            None => self.say("250 2.0.0 chunk taken"),
        }
    }

    /// The message is remembered before it is answered: what the client heard of is never missing.
    fn complete(&mut self, content: Vec<u8>, chunked: bool) -> Result<(), End> {
        let (at, octets) = (moment(), self.state.valve.read_on(self.number));
        let (sender, parameters) = self.sender.take().ok_or(End)?;
        let recipients = std::mem::take(&mut self.recipients);
        let (connection, tls) = (self.number, self.wire.is_tls());
        let (client, hello) = (self.client, self.hello.clone());
        let mut message = Received {
            connection,
            client,
            hello,
            tls,
            chunked,
            sender,
            parameters,
            recipients,
            content,
            at,
            octets,
            code: 0,
        };
        let action = self.ask(&Step::Message(&message));
        let (reply, drop) = match action {
            Action::Default => ("250 2.0.0 taken".to_owned(), false),
            Action::Reply(reply) => (reply, false),
            Action::ReplyAndDrop(reply) => (reply, true),
            Action::Drop | Action::BreakTls => (String::new(), true),
        };
        message.code = code(&reply);
        self.state.messages.lock().unwrap().push(message);
        if !reply.is_empty() {
            self.say(&reply)?;
        }
        if drop { Err(End) } else { Ok(()) }
    }

    fn reset(&mut self) {
        self.sender = None;
        self.recipients.clear();
        self.chunks = None;
    }
}

fn code(reply: &str) -> u16 {
    reply.get(..3).and_then(|digits| digits.parse().ok()).unwrap_or(0)
}

/// The path between the brackets, and what follows.
fn path_of(line: &str) -> Result<(String, String), End> {
    let (_, rest) = line.split_once('<').ok_or(End)?;
    let (path, parameters) = rest.rsplit_once('>').ok_or(End)?;
    Ok((path.to_owned(), parameters.trim().to_owned()))
}
