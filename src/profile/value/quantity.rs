//! Numbers with their unit and their bounds: modes, sizes, counts, days, ports.

use super::parsed;
use crate::model::Bytes;
use crate::profile::fragment::{Node, Value};
use crate::profile::shape::{Definitions, Reader, Shape, Wrong};
use serde::{Serialize, Serializer};
use serde_json::{Value as Json, json};

/// Permission bits, spelled in octal: `"0644"`.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Mode(u32);

impl Mode {
    /// Of a file that anyone may read.
    pub const FILE: Mode = Mode(0o644);

    /// The bits, at most 0o7777.
    pub fn bits(self) -> u32 {
        self.0
    }

    fn parse(s: &str) -> Result<Mode, Wrong> {
        let digits = (3..=4).contains(&s.len()) && s.bytes().all(|c| (b'0'..=b'7').contains(&c));
        let mode = if digits { u32::from_str_radix(s, 8).ok() } else { None };
        mode.map(Mode).ok_or_else(|| {
            let shown: String = s.chars().take(80).collect();
            Wrong::new(
                format!("`{shown}` is not a file mode"),
                "three or four octal digits, such as \"0644\"",
            )
        })
    }
}

impl Serialize for Mode {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.collect_str(&format_args!("{:04o}", self.0))
    }
}

impl Shape for Mode {
    fn read(node: &Node, reader: &mut Reader<'_>) -> Option<Mode> {
        // 0644 is no TOML, 644 is decimal: both are meant in octal and would mean something else.
        if let Value::Integer(n) = node.value {
            let wrong = Wrong::new(
                "a file mode is a string, because a number would be decimal",
                format!("write \"{n:04}\""),
            );
            reader.wrong(node.place, wrong);
            return None;
        }
        parsed(node, reader, "a file mode", Mode::parse)
    }
    fn schema(_: &mut Definitions) -> Json {
        json!({ "type": "string", "pattern": "^[0-7]{3,4}$" })
    }
}

/// The size that `s` spells: a number and a binary unit.
pub fn size(s: &str) -> Option<Bytes> {
    let digits = s.bytes().take_while(u8::is_ascii_digit).count();
    let shift = match s[digits..].trim_start() {
        "KiB" => 10,
        "MiB" => 20,
        "GiB" => 30,
        "TiB" => 40,
        _ => return None,
    };
    let number = s[..digits].parse::<u64>().ok().filter(|n| (1..1 << 20).contains(n))?;
    Some(Bytes(number << shift))
}

/// A size: a number and a binary unit, `"2GiB"`.
impl Shape for Bytes {
    fn read(node: &Node, reader: &mut Reader<'_>) -> Option<Bytes> {
        parsed(node, reader, "a size", |s| {
            size(s).ok_or_else(|| {
                let shown: String = s.chars().take(80).collect();
                Wrong::new(
                    format!("`{shown}` is not a size"),
                    "a whole number and KiB, MiB, GiB or TiB, such as `2GiB`",
                )
            })
        })
    }
    fn schema(_: &mut Definitions) -> Json {
        json!({ "type": "string", "pattern": "^[0-9]+ ?[KMGT]iB$" })
    }
}

/// A whole number from `MIN` to `MAX`.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize)]
#[serde(transparent)]
pub struct Count<const MIN: u32, const MAX: u32>(u32);

impl<const MIN: u32, const MAX: u32> Count<MIN, MAX> {
    /// The number.
    pub fn get(self) -> u32 {
        self.0
    }
    /// The smallest.
    pub const fn least() -> Self {
        Count(MIN)
    }
}

impl<const MIN: u32, const MAX: u32> Shape for Count<MIN, MAX> {
    fn read(node: &Node, reader: &mut Reader<'_>) -> Option<Self> {
        let Value::Integer(n) = node.value else {
            return reader.mismatch(node, "an integer");
        };
        let fits = u32::try_from(n).ok().filter(|n| (MIN..=MAX).contains(n));
        if fits.is_none() {
            reader.wrong(
                node.place,
                Wrong::new(format!("{n} is out of range"), format!("a whole number from {MIN} to {MAX}")),
            );
        }
        fits.map(Count)
    }
    fn schema(_: &mut Definitions) -> Json {
        json!({ "type": "integer", "minimum": MIN, "maximum": MAX })
    }
}

/// Days, spelled `"180d"`.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct Days(u32);

impl Days {
    /// Half a year: how long a box may lie in a warehouse before what it carries lapses.
    pub const SHELF_LIFE: Days = Days(180);

    /// The number of days.
    pub fn get(self) -> u32 {
        self.0
    }
}

impl Serialize for Days {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.collect_str(&format_args!("{}d", self.0))
    }
}

impl Shape for Days {
    fn read(node: &Node, reader: &mut Reader<'_>) -> Option<Days> {
        parsed(node, reader, "a number of days", |s| {
            let days = s.strip_suffix('d').and_then(|n| n.parse().ok()).filter(|n| (1..=3650).contains(n));
            days.map(Days)
                .ok_or_else(|| Wrong::new(format!("`{s}` is not a number of days"), "from `1d` to `3650d`"))
        })
    }
    fn schema(_: &mut Definitions) -> Json {
        json!({ "type": "string", "pattern": "^[0-9]{1,4}d$" })
    }
}

/// Seconds, spelled `"600s"`.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct Seconds(u32);

impl Seconds {
    /// None at all.
    pub const NONE: Seconds = Seconds(0);

    /// The number of seconds.
    pub fn get(self) -> u32 {
        self.0
    }
}

impl Serialize for Seconds {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.collect_str(&format_args!("{}s", self.0))
    }
}

impl Shape for Seconds {
    fn read(node: &Node, reader: &mut Reader<'_>) -> Option<Seconds> {
        parsed(node, reader, "a number of seconds", |s| {
            let seconds = s.strip_suffix('s').and_then(|n| n.parse().ok()).filter(|n| *n <= 86_400);
            seconds.map(Seconds).ok_or_else(|| {
                Wrong::new(format!("`{s}` is not a number of seconds"), "from `0s` to `86400s`")
            })
        })
    }
    fn schema(_: &mut Definitions) -> Json {
        json!({ "type": "string", "pattern": "^[0-9]{1,5}s$" })
    }
}

/// A port that a container listens on: `8080` or `"53/udp"`.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct Port {
    /// 1 to 65535.
    pub number: u16,
    /// Whether it is UDP; TCP otherwise.
    pub udp: bool,
}

impl Serialize for Port {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.collect_str(&format_args!("{}/{}", self.number, if self.udp { "udp" } else { "tcp" }))
    }
}

impl Shape for Port {
    fn read(node: &Node, reader: &mut Reader<'_>) -> Option<Port> {
        let typed = match &node.value {
            Value::Integer(n) => n.to_string(),
            Value::String(s) => s.clone(),
            _ => return reader.mismatch(node, "a port"),
        };
        let (number, protocol) = typed.split_once('/').unwrap_or((&typed, "tcp"));
        let udp = match protocol {
            "tcp" => Some(false),
            "udp" => Some(true),
            _ => None,
        };
        let number = number.parse::<u16>().ok().filter(|n| *n > 0);
        let port = number.zip(udp).map(|(number, udp)| Port { number, udp });
        if port.is_none() {
            reader.wrong(
                node.place,
                Wrong::new(
                    format!("`{typed}` is not a port"),
                    "1 to 65535, with `/udp` where it is not TCP: `8080`, \"53/udp\"",
                ),
            );
        }
        port
    }
    fn schema(_: &mut Definitions) -> Json {
        json!({ "anyOf": [
            { "type": "integer", "minimum": 1, "maximum": 65535 },
            { "type": "string", "pattern": "^[0-9]{1,5}(/(tcp|udp))?$" },
        ] })
    }
}

/// A port of the host that leads to a guest's: `"8080:80"` or `"5353:53/udp"`.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct Forward {
    /// The host's.
    pub host: u16,
    /// The guest's.
    pub guest: u16,
    /// Whether it is UDP; TCP otherwise.
    pub udp: bool,
}

impl Forward {
    fn parse(s: &str) -> Option<Forward> {
        let (ports, udp) = match s.split_once('/') {
            None | Some((_, "tcp")) => (s.split('/').next()?, false),
            Some((ports, "udp")) => (ports, true),
            Some(_) => return None,
        };
        let (host, guest) = ports.split_once(':')?;
        let port = |s: &str| s.parse::<u16>().ok().filter(|n| *n > 0);
        Some(Forward { host: port(host)?, guest: port(guest)?, udp })
    }
}

impl Serialize for Forward {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        let protocol = if self.udp { "udp" } else { "tcp" };
        serializer.collect_str(&format_args!("{}:{}/{protocol}", self.host, self.guest))
    }
}

impl Shape for Forward {
    fn read(node: &Node, reader: &mut Reader<'_>) -> Option<Forward> {
        parsed(node, reader, "a forwarded port", |s| {
            Forward::parse(s).ok_or_else(|| {
                let shown: String = s.chars().take(80).collect();
                let help = "the host's port and the guest's, such as \"8080:80\" or \"5353:53/udp\"";
                Wrong::new(format!("`{shown}` is not a forwarded port"), help)
            })
        })
    }
    fn schema(_: &mut Definitions) -> Json {
        json!({ "type": "string", "pattern": "^[0-9]{1,5}:[0-9]{1,5}(/(tcp|udp))?$" })
    }
}
