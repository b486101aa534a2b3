//! A file of a server in plain HTTP, from any byte on: what an installer fetches, and knows the digest of.

use super::answer::{self, Bad};
use super::{Origin, resolve};
use std::io::{self, BufReader, Read, Write as _};
use std::net::{SocketAddr, TcpStream};
use std::time::Duration;

/// For a connection, and for the next bytes on it.
const PATIENCE: Duration = Duration::from_secs(30);

/// Asks `origin` for the file `target`, of `size` bytes, from byte `at` on; what is read gives those bytes and no others.
///
/// # Errors
/// What is wrong, for people.
pub fn opened(origin: &Origin, target: &str, at: u64, size: u64) -> Result<Box<dyn Read>, String> {
    let mut stream = connect(origin)?;
    let io = |e: io::Error| e.to_string();
    stream.set_read_timeout(Some(PATIENCE)).map_err(io)?;
    stream.set_write_timeout(Some(PATIENCE)).map_err(io)?;
    let request = format!(
        "GET {target} HTTP/1.1\r\nHost: {}\r\nUser-Agent: forge-device/{}\r\nRange: bytes={at}-\r\nConnection: close\r\n\r\n",
        origin.authority(),
        env!("CARGO_PKG_VERSION"),
    );
    stream.write_all(request.as_bytes()).map_err(io)?;
    let mut reader = BufReader::with_capacity(256 << 10, stream);
    let head = answer::head(&mut reader).map_err(|bad| match bad {
        Bad::Io(e) => e.to_string(),
        Bad::Not(why) => format!("the answer {why}"),
    })?;
    // A server that knows no ranges sends all of it, or says that there is no such part.
    let from = match head.status {
        206 => at,
        200 => 0,
        status => return Err(format!("the server answers {status}")),
    };
    match head.length() {
        Some(length) if length != size - from => {
            return Err(format!("the file has {} bytes, expected {size}", from.saturating_add(length)));
        }
        Some(_) => {}
        None => return Err("the server does not say how long the file is".into()),
    }
    let skipped = io::copy(&mut (&mut reader).take(at - from), &mut io::sink()).map_err(io)?;
    if skipped != at - from {
        return Err("the answer is cut short".into());
    }
    Ok(Box::new(reader.take(size - at)))
}

fn connect(origin: &Origin) -> Result<TcpStream, String> {
    let addresses = resolve::addresses(&origin.host, PATIENCE).map_err(|e| e.to_string())?;
    let mut last = String::from("it has no address");
    for address in addresses {
        match TcpStream::connect_timeout(&SocketAddr::new(address, origin.port), PATIENCE) {
            Ok(stream) => return Ok(stream),
            Err(e) => last = format!("connecting to {}: {e}", origin.authority()),
        }
    }
    Err(last)
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::net::TcpListener;

    /// A server that gives `answers`, one a connection.
    fn server(answers: Vec<String>) -> Origin {
        let listener = TcpListener::bind(("127.0.0.1", 0)).unwrap();
        let port = listener.local_addr().unwrap().port();
        std::thread::spawn(move || {
            for answer in answers {
                let (mut stream, _) = listener.accept().unwrap();
                answer::lines(&mut BufReader::new(RequestAsAnswer(stream.try_clone().unwrap(), false))).ok();
                stream.write_all(answer.as_bytes()).unwrap();
            }
        });
        Origin { host: "127.0.0.1".into(), port }
    }

    /// The reader of heads wants an answer's first line: it gets one, and the request behind it.
    struct RequestAsAnswer(TcpStream, bool);

    impl Read for RequestAsAnswer {
        fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
            if !self.1 {
                self.1 = true;
                buffer[..10].copy_from_slice(b"HTTP/1.1\r\n");
                return Ok(10);
            }
            self.0.read(buffer)
        }
    }

    fn body(answer: &str, at: u64) -> Result<String, String> {
        let origin = server(vec![answer.into()]);
        let mut text = String::new();
        opened(&origin, "/x", at, 5)?.read_to_string(&mut text).map_err(|e| e.to_string())?;
        Ok(text)
    }

    #[test]
    fn a_file_goes_on_where_it_broke_off_whatever_the_server_can() {
        assert_eq!(body("HTTP/1.1 200 OK\r\nContent-Length: 5\r\n\r\nhello", 0), Ok("hello".into()));
        assert_eq!(
            body("HTTP/1.1 206 Partial\r\nContent-Length: 3\r\n\r\nllo and more", 2),
            Ok("llo".into())
        );
        assert_eq!(body("HTTP/1.1 200 OK\r\nContent-Length: 5\r\n\r\nhello", 2), Ok("llo".into()));
        for (answer, says) in [
            ("HTTP/1.1 404 No\r\nContent-Length: 0\r\n\r\n", "answers 404"),
            ("HTTP/1.1 302 Login\r\nLocation: http://portal.example\r\n\r\n", "answers 302"),
            ("HTTP/1.1 206 Partial\r\nContent-Length: 4\r\n\r\nllo", "expected 5"),
            ("HTTP/1.1 200 OK\r\n\r\nhello", "how long"),
            ("HTTP/1.1 200 OK\r\nContent-Length: 5\r\n\r\nh", "cut short"),
            ("SSH-2.0-OpenSSH\r\n", "no HTTP"),
        ] {
            let fault = body(answer, 2).unwrap_err();
            assert!(fault.contains(says), "{answer}: {fault}");
        }
    }
}
