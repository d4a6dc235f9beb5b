//! A mail server that speaks as much SMTP as its clients need, does what a test tells it, and keeps what it took.
#![allow(dead_code, clippy::unwrap_used, clippy::panic, reason = "shared by tests")]

use std::net::SocketAddr;
use std::sync::{Arc, Mutex};

use base64::Engine;
use base64::engine::general_purpose::STANDARD;
use tokio::io::{AsyncBufReadExt, AsyncRead, AsyncWrite, AsyncWriteExt, BufReader};
use tokio::net::TcpListener;
use tokio_rustls::TlsAcceptor;
use tokio_rustls::rustls::ServerConfig;

/// How the server is.
#[derive(Clone, Default)]
pub(crate) struct Manner {
    /// Its certificate; without one it speaks in the clear only.
    pub(crate) tls: Option<Arc<ServerConfig>>,
    /// TLS from the first byte.
    pub(crate) implicit: bool,
    /// User and password; it takes mail of nobody else.
    pub(crate) login: Option<(String, String)>,
    /// Answers 451 to so many mails before it takes one.
    pub(crate) busy: usize,
    /// Takes so many mails and breaks the connection instead of saying so.
    pub(crate) mute: usize,
}

/// A mail as it arrived.
#[derive(Clone, Debug)]
pub(crate) struct Mail {
    pub(crate) from: String,
    pub(crate) to: Vec<String>,
    pub(crate) text: String,
    pub(crate) encrypted: bool,
    pub(crate) user: Option<String>,
    /// Whether the client heard that it was taken.
    pub(crate) said: bool,
}

impl Mail {
    pub(crate) fn header(&self, name: &str) -> Option<&str> {
        let head = self.text.split("\r\n\r\n").next().unwrap_or_default();
        head.lines().find_map(|line| line.strip_prefix(name)?.strip_prefix(": "))
    }
}

pub(crate) struct MailServer {
    pub(crate) address: SocketAddr,
    taken: Arc<Mutex<Vec<Mail>>>,
    /// Every line that a client sent, the mails themselves aside.
    said: Arc<Mutex<Vec<String>>>,
}

impl MailServer {
    pub(crate) async fn start(manner: Manner) -> MailServer {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let address = listener.local_addr().unwrap();
        let (taken, said) = (Arc::<Mutex<Vec<Mail>>>::default(), Arc::<Mutex<Vec<String>>>::default());
        let server = MailServer { address, taken: Arc::clone(&taken), said: Arc::clone(&said) };
        let manner = Arc::new(Mutex::new(manner));
        tokio::spawn(async move {
            while let Ok((stream, _)) = listener.accept().await {
                let session = Session {
                    manner: Arc::clone(&manner),
                    taken: Arc::clone(&taken),
                    said: Arc::clone(&said),
                };
                tokio::spawn(session.run(stream));
            }
        });
        server
    }

    pub(crate) fn taken(&self) -> Vec<Mail> {
        self.taken.lock().unwrap().clone()
    }

    pub(crate) fn said(&self) -> Vec<String> {
        self.said.lock().unwrap().clone()
    }
}

struct Session {
    manner: Arc<Mutex<Manner>>,
    taken: Arc<Mutex<Vec<Mail>>>,
    said: Arc<Mutex<Vec<String>>>,
}

/// How a conversation ended.
enum End {
    Over,
    StartTls,
}

impl Session {
    async fn run(self, stream: tokio::net::TcpStream) {
        let Manner { tls, implicit, .. } = self.manner.lock().unwrap().clone();
        let acceptor = tls.map(TlsAcceptor::from);
        if implicit {
            let Ok(stream) = acceptor.unwrap().accept(stream).await else { return };
            let _ = self.talk(&mut BufReader::new(stream), true, true).await;
            return;
        }
        let mut stream = BufReader::new(stream);
        if let Ok(End::StartTls) = self.talk(&mut stream, false, true).await
            && let Ok(stream) = acceptor.unwrap().accept(stream.into_inner()).await
        {
            let _ = self.talk(&mut BufReader::new(stream), true, false).await;
        }
    }

    async fn talk<S: AsyncRead + AsyncWrite + Unpin>(
        &self,
        stream: &mut BufReader<S>,
        encrypted: bool,
        greet: bool,
    ) -> std::io::Result<End> {
        if greet {
            say(stream, "220 mail.example at your service").await?;
        }
        let (mut from, mut to, mut user) = (String::new(), Vec::new(), None);
        loop {
            let mut line = String::new();
            if stream.read_line(&mut line).await? == 0 {
                return Ok(End::Over);
            }
            let line = line.trim_end().to_owned();
            self.said.lock().unwrap().push(line.clone());
            let manner = self.manner.lock().unwrap().clone();
            let word = line.split([' ', ':']).next().unwrap_or_default().to_ascii_uppercase();
            match word.as_str() {
                "EHLO" => {
                    let mut extensions = vec!["mail.example", "8BITMIME"];
                    if manner.tls.is_some() && !encrypted {
                        extensions.push("STARTTLS");
                    }
                    if manner.login.is_some() && (encrypted || manner.tls.is_none()) {
                        extensions.push("AUTH PLAIN");
                    }
                    let last = extensions.len() - 1;
                    for (at, extension) in extensions.iter().enumerate() {
                        say(stream, &format!("250{}{extension}", if at == last { ' ' } else { '-' })).await?;
                    }
                }
                "STARTTLS" if manner.tls.is_some() => {
                    say(stream, "220 go ahead").await?;
                    return Ok(End::StartTls);
                }
                "AUTH" => {
                    let given = line.rsplit(' ').next().unwrap_or_default();
                    let given = String::from_utf8(STANDARD.decode(given).unwrap_or_default()).unwrap();
                    let fits = manner
                        .login
                        .as_ref()
                        .is_some_and(|(name, word)| given == format!("\0{name}\0{word}"));
                    if fits {
                        user = manner.login.map(|(name, _)| name);
                        say(stream, "235 welcome").await?;
                    } else {
                        say(stream, &format!("535 I do not know {given}")).await?;
                    }
                }
                "MAIL" if manner.login.is_some() && user.is_none() => {
                    say(stream, "530 who are you?").await?;
                }
                "MAIL" => {
                    from = between(&line);
                    to.clear();
                    say(stream, "250 ok").await?;
                }
                "RCPT" => {
                    to.push(between(&line));
                    say(stream, "250 ok").await?;
                }
                "DATA" => {
                    say(stream, "354 go on").await?;
                    let text = read_mail(stream).await?;
                    if manner.busy > 0 {
                        self.manner.lock().unwrap().busy -= 1;
                        say(stream, "451 not now, and do not log this sentence").await?;
                        continue;
                    }
                    let said = manner.mute == 0;
                    let mail = Mail {
                        from: from.clone(),
                        to: to.clone(),
                        text,
                        encrypted,
                        user: user.clone(),
                        said,
                    };
                    self.taken.lock().unwrap().push(mail);
                    if !said {
                        self.manner.lock().unwrap().mute -= 1;
                        return Ok(End::Over);
                    }
                    say(stream, "250 taken").await?;
                }
                "QUIT" => {
                    say(stream, "221 bye").await?;
                    return Ok(End::Over);
                }
                _ => say(stream, "502 what?").await?,
            }
        }
    }
}

async fn say<S: AsyncWrite + Unpin>(stream: &mut S, line: &str) -> std::io::Result<()> {
    stream.write_all(format!("{line}\r\n").as_bytes()).await?;
    stream.flush().await
}

/// Up to the line with one dot; dots that were doubled are single again.
async fn read_mail<S: AsyncRead + Unpin>(stream: &mut BufReader<S>) -> std::io::Result<String> {
    let mut text = String::new();
    loop {
        let mut line = String::new();
        if stream.read_line(&mut line).await? == 0 || line == ".\r\n" {
            return Ok(text);
        }
        text.push_str(line.strip_prefix('.').unwrap_or(&line));
    }
}

fn between(line: &str) -> String {
    let inner = line.split_once('<').and_then(|(_, rest)| rest.split_once('>'));
    inner.map(|(inner, _)| inner.to_owned()).unwrap_or_default()
}
