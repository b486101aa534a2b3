//! Names → addresses, by asking systemd-resolved over its socket (Varlink, `io.systemd.Resolve.ResolveHostname`).
//!
//! Not through the C library: this program is static, and glibc would load the image's name service modules into it, which
//! are of another version. resolved also says whether the name is unknown or nobody was there to ask. Where it does not
//! run, which is on no image of forge's, the standard library is asked.

use serde::Deserialize;
use std::io::{self, BufRead as _, BufReader, Read as _, Write as _};
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, ToSocketAddrs as _};
use std::os::unix::net::UnixStream;
use std::path::Path;
use std::time::Duration;

const SOCKET: &str = "/run/systemd/resolve/io.systemd.Resolve";
/// The longest reply: an address is some 60 bytes of JSON, and no name has a thousand.
const MAX_REPLY: u64 = 64 << 10;
/// Addresses that are tried.
const MAX_ADDRESSES: usize = 16;

/// A name without an address.
#[derive(Debug, thiserror::Error)]
#[error("looking up {name}: {why}")]
pub struct Unresolved {
    /// The name.
    pub name: String,
    /// What the resolver says.
    pub why: String,
}

/// The addresses of `host`, which may be one itself; at least one.
///
/// # Errors
/// [`Unresolved`], within about `patience`.
pub fn addresses(host: &str, patience: Duration) -> Result<Vec<IpAddr>, Unresolved> {
    if let Ok(address) = host.parse() {
        return Ok(vec![address]);
    }
    let socket = Path::new(SOCKET);
    let found = if socket.exists() { ask(socket, host, patience) } else { system(host) };
    match found {
        Ok(found) if !found.is_empty() => Ok(found),
        Ok(_) => Err(Unresolved { name: host.into(), why: "it has no address".into() }),
        Err(why) => Err(Unresolved { name: host.into(), why }),
    }
}

fn system(host: &str) -> Result<Vec<IpAddr>, String> {
    let found = (host, 0).to_socket_addrs().map_err(|e| e.to_string())?;
    Ok(found.map(|a| a.ip()).take(MAX_ADDRESSES).collect())
}

#[derive(Deserialize)]
struct Reply {
    error: Option<String>,
    #[serde(default)]
    parameters: Parameters,
}

#[derive(Default, Deserialize)]
struct Parameters {
    #[serde(default)]
    addresses: Vec<Address>,
}

#[derive(Deserialize)]
struct Address {
    address: Vec<u8>,
}

fn ask(socket: &Path, host: &str, patience: Duration) -> Result<Vec<IpAddr>, String> {
    let call = serde_json::json!({
        "method": "io.systemd.Resolve.ResolveHostname",
        "parameters": { "name": host },
    });
    let exchange = || -> io::Result<Vec<u8>> {
        let mut stream = UnixStream::connect(socket)?;
        // resolved answers in one piece, so that a timeout of each read is one of all.
        stream.set_read_timeout(Some(patience.max(Duration::from_millis(1))))?;
        stream.set_write_timeout(Some(patience.max(Duration::from_millis(1))))?;
        stream.write_all(format!("{call}\0").as_bytes())?;
        let mut reply = vec![];
        BufReader::new(stream.take(MAX_REPLY)).read_until(0, &mut reply)?;
        Ok(reply)
    };
    let reply = exchange().map_err(|e| match e.kind() {
        io::ErrorKind::WouldBlock | io::ErrorKind::TimedOut => "the resolver does not answer".to_string(),
        _ => format!("the resolver: {e}"),
    })?;
    read(&reply)
}

fn read(reply: &[u8]) -> Result<Vec<IpAddr>, String> {
    let Some(json) = reply.strip_suffix(b"\0") else {
        return Err("the resolver's reply is cut short".into());
    };
    let reply: Reply = serde_json::from_slice(json).map_err(|e| format!("the resolver's reply: {e}"))?;
    if let Some(error) = reply.error {
        let word = error.rsplit('.').next().unwrap_or_default();
        return Err(match word {
            "NoNameServers" => "no name server is known".into(),
            "QueryTimedOut" | "MaxAttemptsReached" => "the name server does not answer".into(),
            "DNSError" => "the name server does not know it".into(),
            "NoSuchResourceRecord" => "it has no address".into(),
            "ServiceNotProvided" | "NetworkDown" => "the network is down".into(),
            other => other.chars().filter(char::is_ascii_alphanumeric).take(40).collect(),
        });
    }
    let ip = |a: Address| match a.address.len() {
        4 => Some(IpAddr::V4(Ipv4Addr::from(<[u8; 4]>::try_from(a.address).ok()?))),
        16 => Some(IpAddr::V6(Ipv6Addr::from(<[u8; 16]>::try_from(a.address).ok()?))),
        _ => None,
    };
    Ok(reply.parameters.addresses.into_iter().filter_map(ip).take(MAX_ADDRESSES).collect())
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::os::unix::net::UnixListener;

    #[test]
    fn the_resolver_is_asked_and_believed_within_bounds() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("socket");
        let listener = UnixListener::bind(&path).unwrap();
        let replies = [
            r#"{"parameters":{"addresses":[{"ifindex":2,"family":2,"address":[192,0,2,7]},{"family":10,"address":[32,1,13,184,0,0,0,0,0,0,0,0,0,0,0,1]},{"family":2,"address":[1]}],"name":"fleet.example","flags":1}}"#,
            r#"{"error":"io.systemd.Resolve.DNSError","parameters":{"rcode":3}}"#,
            r#"{"error":"io.systemd.Resolve.NoNameServers"}"#,
            "not json",
        ];
        let server = std::thread::spawn(move || {
            for reply in replies {
                let (mut stream, _) = listener.accept().unwrap();
                let mut asked = vec![];
                BufReader::new(stream.try_clone().unwrap()).read_until(0, &mut asked).unwrap();
                assert!(String::from_utf8(asked).unwrap().contains(r#""name":"fleet.example""#));
                stream.write_all(format!("{reply}\0").as_bytes()).unwrap();
            }
        });
        let ask = || ask(&path, "fleet.example", Duration::from_secs(5));
        assert_eq!(ask().unwrap(), ["192.0.2.7".parse::<IpAddr>().unwrap(), "2001:db8::1".parse().unwrap()]);
        assert_eq!(ask().unwrap_err(), "the name server does not know it");
        assert_eq!(ask().unwrap_err(), "no name server is known");
        assert!(ask().unwrap_err().contains("reply"));
        server.join().unwrap();
    }

    #[test]
    fn an_address_needs_no_resolver_and_silence_ends() {
        assert_eq!(addresses("::1", Duration::ZERO).unwrap(), ["::1".parse::<IpAddr>().unwrap()]);
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("socket");
        let _silent = UnixListener::bind(&path).unwrap();
        let error = ask(&path, "fleet.example", Duration::from_millis(20)).unwrap_err();
        assert_eq!(error, "the resolver does not answer");
    }
}
