//! A folder of a release over HTTP, for a box that boots from the network: `GET` and `HEAD` of regular files, whole or from
//! a byte on (RFC 9110). On this machine's loopback alone, which the emulator's network shows to the box as its router.

use crate::host::fs;
use std::fs::File;
use std::io::{self, BufRead as _, BufReader, Read as _, Seek as _, SeekFrom, Write as _};
use std::net::{TcpListener, TcpStream};
use std::path::{Component, Path, PathBuf};
use std::time::Duration;

/// The most bytes of a request's head.
const MAX_HEAD: u64 = 16 << 10;
/// How long a silent connection is kept.
const PATIENCE: Duration = Duration::from_secs(60);

/// A folder that is served for as long as this process lives.
#[derive(Debug)]
pub struct Served {
    /// The TCP port on 127.0.0.1.
    pub port: u16,
}

/// Serves the files below `folder`.
///
/// # Errors
/// When no port can be had.
pub fn serve(folder: &Path) -> io::Result<Served> {
    let listener = TcpListener::bind(("127.0.0.1", 0))?;
    let port = listener.local_addr()?.port();
    let folder = folder.to_path_buf();
    std::thread::spawn(move || {
        for stream in listener.incoming().flatten() {
            let folder = folder.clone();
            // A box that goes away in the middle is what boxes do.
            std::thread::spawn(move || answer(&stream, &folder));
        }
    });
    Ok(Served { port })
}

fn answer(mut stream: &TcpStream, folder: &Path) -> io::Result<()> {
    stream.set_read_timeout(Some(PATIENCE))?;
    stream.set_write_timeout(Some(PATIENCE))?;
    let mut reader = BufReader::new(stream).take(MAX_HEAD);
    let mut request = String::new();
    reader.read_line(&mut request)?;
    let mut from = None;
    loop {
        let mut field = String::new();
        if reader.read_line(&mut field)? == 0 || field.trim().is_empty() {
            break;
        }
        if let Some((name, value)) = field.split_once(':')
            && name.eq_ignore_ascii_case("range")
        {
            // The one form that is asked for: from a byte to the end.
            let start = value.trim().strip_prefix("bytes=").and_then(|range| range.strip_suffix('-'));
            from = start.and_then(|start| start.parse::<u64>().ok());
        }
    }
    let mut words = request.split_ascii_whitespace();
    let (method, target) = (words.next().unwrap_or_default(), words.next().unwrap_or_default());
    if !["GET", "HEAD"].contains(&method) {
        return stream.write_all(b"HTTP/1.1 405 Method Not Allowed\r\nContent-Length: 0\r\n\r\n");
    }
    let found = place(folder, target).and_then(|path| fs::open_regular(&path).ok());
    let Some(mut file) = found else {
        return stream.write_all(b"HTTP/1.1 404 Not Found\r\nContent-Length: 0\r\nConnection: close\r\n\r\n");
    };
    let length = file.metadata()?.len();
    let at = from.filter(|at| *at < length);
    let status = match at {
        None => String::from("200 OK"),
        Some(at) => format!("206 Partial Content\r\nContent-Range: bytes {at}-{}/{length}", length - 1),
    };
    let at = at.unwrap_or(0);
    let head = format!(
        "HTTP/1.1 {status}\r\nContent-Length: {}\r\nContent-Type: application/octet-stream\r\nConnection: close\r\n\r\n",
        length - at
    );
    stream.write_all(head.as_bytes())?;
    if method == "GET" {
        send(&mut file, at, stream)?;
    }
    Ok(())
}

fn send(file: &mut File, at: u64, mut stream: &TcpStream) -> io::Result<()> {
    file.seek(SeekFrom::Start(at))?;
    io::copy(file, &mut stream).map(drop)
}

/// The file of a request's target below `folder`; `None` for whatever would leave it.
fn place(folder: &Path, target: &str) -> Option<PathBuf> {
    let path = target.split(['?', '#']).next()?.trim_start_matches('/');
    let plain = Path::new(path).components().all(|part| matches!(part, Component::Normal(_)));
    (plain && !path.is_empty()).then(|| folder.join(path))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn ask(port: u16, request: &str) -> String {
        let mut stream = TcpStream::connect(("127.0.0.1", port)).unwrap();
        stream.write_all(request.as_bytes()).unwrap();
        let mut answer = String::new();
        stream.read_to_string(&mut answer).unwrap();
        answer
    }

    #[test]
    fn files_are_served_whole_or_from_a_byte_on_and_nothing_else_is() {
        let dir = tempfile::tempdir().unwrap();
        fs::write_atomic(&dir.path().join("release/netboot/forge.efi"), b"hello", 0o644).unwrap();
        fs::write_atomic(&dir.path().join("secret"), b"secret", 0o600).unwrap();
        let port = serve(&dir.path().join("release")).unwrap().port;
        let whole = ask(port, "GET /netboot/forge.efi HTTP/1.1\r\n\r\n");
        assert!(
            whole.starts_with("HTTP/1.1 200 OK\r\nContent-Length: 5\r\n") && whole.ends_with("\r\n\r\nhello")
        );
        let part = ask(port, "GET /netboot/forge.efi HTTP/1.1\r\nRange: bytes=2-\r\n\r\n");
        assert!(
            part.contains("206 ") && part.contains("bytes 2-4/5") && part.ends_with("\r\n\r\nllo"),
            "{part}"
        );
        let head = ask(port, "HEAD /netboot/forge.efi HTTP/1.1\r\n\r\n");
        assert!(head.contains("Content-Length: 5") && head.ends_with("\r\n\r\n"));
        for target in ["/../secret", "/netboot/../../secret", "/", "/netboot", "//etc/passwd", "/other"] {
            let answer = ask(port, &format!("GET {target} HTTP/1.1\r\n\r\n"));
            assert!(answer.starts_with("HTTP/1.1 404"), "{target}: {answer}");
        }
        assert!(ask(port, "PUT /x HTTP/1.1\r\n\r\n").starts_with("HTTP/1.1 405"));
    }
}
