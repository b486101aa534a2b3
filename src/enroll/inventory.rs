//! The inventory: a table of boxes as a factory or an importer hands it over, CSV (RFC 4180) in, rows out.
//!
//! The first line names the columns, in any order; `name` is the only one that has to be there:
//!
//! | column | what |
//! |---|---|
//! | `name` | the node's name: a DNS label, given once |
//! | `serial` | SMBIOS serial |
//! | `uuid` | SMBIOS UUID |
//! | `macs` | permanent hardware addresses, with `;` between |
//! | `ek` | SHA-256 of the TPM's endorsement key, `sha256:…` |
//! | `labels` | `key=value` with `;` between |
//! | `address`, `gateway`, `dns`, `vlan` | a static network for the port with the first address of `macs` |
//! | `port` | the kernel's name of that port, `eth0`: for other systems' seeds that know no better |
//!
//! Every fault of the table is told at once, each with its line.

use crate::enroll::bootstrap::{DeviceRow, NetworkRule, PortMatch};
use crate::enroll::evidence::{Facts, Match, points};
use crate::model::{Digest, SiteName};
use std::collections::{BTreeMap, BTreeSet};
use std::net::IpAddr;

/// The largest table that is read, in bytes: some hundred thousand boxes.
pub const MAX_BYTES: usize = 64 << 20;

const COLUMNS: &[&str] =
    &["name", "serial", "uuid", "macs", "ek", "labels", "address", "gateway", "dns", "vlan", "port"];

/// A box, and its network where that is static.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Row {
    /// What it has to fit.
    pub device: DeviceRow,
    /// Its static network.
    pub network: Option<NetworkRule>,
    /// The kernel's name of that network's port. A bundle never goes by it: it changes with a card.
    pub port: Option<String>,
}

/// What is wrong with a table.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("line {line}: {what}")]
pub struct Fault {
    /// Counted from 1, the line of the columns' names.
    pub line: u64,
    /// What is wrong, and what would be right.
    pub what: String,
}

/// Reads a table.
///
/// # Errors
/// Every fault, by line.
pub fn parse(text: &[u8]) -> Result<Vec<Row>, Vec<Fault>> {
    let at = |line, what: String| Fault { line, what };
    if text.len() > MAX_BYTES {
        return Err(vec![at(1, format!("{} bytes are more than {MAX_BYTES}", text.len()))]);
    }
    let text = text.strip_prefix(b"\xef\xbb\xbf").unwrap_or(text); // spreadsheets write it
    let mut reader = csv::ReaderBuilder::new().trim(csv::Trim::All).comment(Some(b'#')).from_reader(text);
    let columns: Vec<String> = match reader.headers() {
        Ok(headers) => headers.iter().map(str::to_lowercase).collect(),
        Err(e) => return Err(vec![at(1, e.to_string())]),
    };
    let mut faults: Vec<Fault> = columns
        .iter()
        .filter(|c| !COLUMNS.contains(&c.as_str()))
        .map(|c| at(1, format!("unknown column `{c}`; there are {}", COLUMNS.join(", "))))
        .collect();
    if !columns.iter().any(|c| c == "name") {
        faults.push(at(1, "there is no column `name`".into()));
    }
    let (mut rows, mut seen): (Vec<Row>, Seen) = (vec![], Seen::default());
    for record in reader.records() {
        match record {
            Err(e) => faults.push(at(e.position().map_or(0, csv::Position::line), e.to_string())),
            Ok(record) => {
                let line = record.position().map_or(0, csv::Position::line);
                let cells = columns.iter().map(String::as_str).zip(record.iter()).collect();
                match Cells(cells).row(&mut seen) {
                    Ok(row) => rows.push(row),
                    Err(wrong) => faults.extend(wrong.into_iter().map(|what| at(line, what))),
                }
            }
        }
    }
    if rows.is_empty() && faults.is_empty() {
        faults.push(at(1, "the table has no box".into()));
    }
    if faults.is_empty() { Ok(rows) } else { Err(faults) }
}

/// What may be in a table once only.
#[derive(Default)]
struct Seen {
    names: BTreeSet<String>,
    serials: BTreeSet<String>,
    macs: BTreeSet<String>,
}

/// A line's cells by column; an empty cell is as none.
struct Cells<'a>(BTreeMap<&'a str, &'a str>);

impl Cells<'_> {
    fn get(&self, column: &str) -> Option<&str> {
        self.0.get(column).copied().filter(|cell| !cell.is_empty())
    }

    fn list(&self, column: &str) -> Vec<&str> {
        self.get(column).unwrap_or_default().split(';').map(str::trim).filter(|s| !s.is_empty()).collect()
    }

    fn row(&self, seen: &mut Seen) -> Result<Row, Vec<String>> {
        let mut faults = vec![];
        let name = self.get("name").unwrap_or_default().to_string();
        if SiteName::parse(&name).is_err() {
            faults.push(format!("`{name}` is no node name: 1 to 63 of a-z, 0-9 and `-`"));
        } else if !seen.names.insert(name.clone()) {
            faults.push(format!("the name `{name}` is there twice"));
        }
        // Through the same sieve as a box's own words: what would never count must not be relied on.
        let expected = Facts {
            serial: self.get("serial").map(String::from),
            smbios_uuid: self.get("uuid").map(String::from),
            macs: self.list("macs").into_iter().map(String::from).collect(),
            ..Facts::default()
        };
        let cleaned = expected.clone().cleaned();
        if let (Some(typed), None) = (&expected.serial, &cleaned.serial) {
            faults.push(format!(
                "serial `{typed}` is what a factory leaves in the field, and identifies nothing"
            ));
        }
        if let (Some(typed), None) = (&expected.smbios_uuid, &cleaned.smbios_uuid) {
            faults.push(format!("`{typed}` is no UUID that identifies anything"));
        }
        if cleaned.macs.len() != expected.macs.len() {
            faults.push(
                "macs: hardware addresses look like 02:00:00:00:00:01, each once, with `;` between".into(),
            );
        }
        if let Some(serial) = &cleaned.serial
            && !seen.serials.insert(serial.clone())
        {
            faults.push(format!("the serial `{serial}` is there twice"));
        }
        for mac in &cleaned.macs {
            if !seen.macs.insert(mac.clone()) {
                faults.push(format!("the hardware address `{mac}` is there twice"));
            }
        }
        let ek = self.get("ek").map(str::parse::<Digest>).transpose();
        let ek_sha256 = ek.unwrap_or_else(|e| {
            faults.push(format!("ek: {e}"));
            None
        });
        let mut labels = BTreeMap::new();
        for label in self.list("labels") {
            match label.split_once('=') {
                Some((key, value)) if !key.is_empty() => {
                    labels.insert(key.to_string(), value.to_string());
                }
                _ => faults.push(format!("label `{label}` is not key=value")),
            }
        }
        let network = self.network(self.list("macs").first().copied(), &mut faults);
        let port = self.get("port").map(String::from);
        if port.as_ref().is_some_and(|name| !is_port(name)) {
            faults.push("port: 1 to 15 of letters, digits, `-`, `_` and `.`, such as eth0".into());
        }
        if !faults.is_empty() {
            return Err(faults);
        }
        // One strong fact is enough to be this box; a serial counts double.
        let strong = cleaned.serial.is_some() || ek_sha256.is_some();
        let min_score = if strong { points::SERIAL } else { points::MAC.min(20 * cleaned.macs.len() as u32) };
        let r#match =
            Match { serial: cleaned.serial, smbios_uuid: cleaned.smbios_uuid, macs: cleaned.macs, ek_sha256 };
        Ok(Row { device: DeviceRow { r#ref: name, r#match, min_score, labels }, network, port })
    }

    fn network(&self, mac: Option<&str>, faults: &mut Vec<String>) -> Option<NetworkRule> {
        let given =
            ["address", "gateway", "dns", "vlan"].into_iter().filter(|c| self.get(c).is_some()).count();
        if given == 0 {
            return None;
        }
        let Some(mac) = mac else {
            faults.push("a static network needs `macs`, which says for which port".into());
            return None;
        };
        let mut ips = |column: &str| -> Vec<IpAddr> {
            let mut read = vec![];
            for text in self.list(column) {
                match text.parse() {
                    Ok(ip) => read.push(ip),
                    Err(_) => faults.push(format!("{column}: `{text}` is no address")),
                }
            }
            read
        };
        let (gateways, dns) = (ips("gateway"), ips("dns"));
        let addresses: Vec<String> = self.list("address").into_iter().map(String::from).collect();
        for address in addresses.iter().filter(|a| !is_prefixed(a)) {
            faults.push(format!("address: `{address}` is not ADDRESS/LENGTH, such as 192.0.2.7/24"));
        }
        let vlan = self.get("vlan").map(str::parse::<u16>);
        if vlan.as_ref().is_some_and(|v| !v.as_ref().is_ok_and(|id| (1..=4094).contains(id))) {
            faults.push("vlan: 1 to 4094".into());
        }
        let r#match = PortMatch { mac: Some(mac.to_lowercase().replace('-', ":")), ..PortMatch::default() };
        Some(NetworkRule { r#match, addresses, gateways, dns, vlan: vlan.and_then(Result::ok) })
    }
}

/// A name that the kernel gives a port (`IFNAMSIZ`), and no more of what it would take.
fn is_port(name: &str) -> bool {
    (1..=15).contains(&name.len()) && name.bytes().all(|b| b.is_ascii_alphanumeric() || b"-_.".contains(&b))
}

/// `192.0.2.7/24`, `2001:db8::7/64`.
pub fn is_prefixed(text: &str) -> bool {
    let Some((ip, length)) = text.split_once('/') else { return false };
    let most = match ip.parse::<IpAddr>() {
        Ok(IpAddr::V4(_)) => 32,
        Ok(IpAddr::V6(_)) => 128,
        Err(_) => return false,
    };
    length.parse::<u8>().is_ok_and(|l| (1..=most).contains(&l))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_table_is_read_with_its_columns_in_any_order() {
        let text = "\u{feff}serial, name,macs,labels,address,gateway,dns,vlan\n\
            # the till\n\
            PF-1,till-1,02:00:00:00:00:01;02-00-00-00-00-0A,region=eu;tier=retail,192.0.2.7/24,192.0.2.1,192.0.2.53;2001:db8::53,7\n\
            ,till-2,02:00:00:00:00:02,,,,,\n";
        let rows = parse(text.as_bytes()).unwrap();
        assert_eq!(rows.len(), 2);
        let till = &rows[0].device;
        assert_eq!((till.r#ref.as_str(), till.min_score), ("till-1", 40));
        assert_eq!(till.r#match.macs, ["02:00:00:00:00:01", "02:00:00:00:00:0a"]);
        assert_eq!(till.labels["tier"], "retail");
        let network = rows[0].network.as_ref().unwrap();
        assert_eq!(network.r#match.mac.as_deref(), Some("02:00:00:00:00:01"));
        assert_eq!(
            (network.addresses.as_slice(), network.dns.len(), network.vlan),
            (&["192.0.2.7/24".to_string()][..], 2, Some(7))
        );
        assert_eq!((rows[1].network.clone(), rows[1].device.min_score), (None, 20));
    }

    #[test]
    fn every_fault_is_told_at_once_with_its_line() {
        let text = "name,serial,macs,address,colour\nTill 1,Default string,zz,192.0.2.7,red\ntill-2,PF-2,,192.0.2.7/24,\ntill-2,PF-2,,,\nshort,row\n";
        let faults = parse(text.as_bytes()).unwrap_err();
        let told: Vec<String> = faults.iter().map(Fault::to_string).collect();
        for expected in [
            "line 1: unknown column `colour`",
            "line 2: `Till 1` is no node name",
            "line 2: serial `Default string`",
            "line 2: macs:",
            "line 2: address: `192.0.2.7`",
            "line 3: a static network needs `macs`",
            "line 4: the name `till-2` is there twice",
            "line 4: the serial `PF-2` is there twice",
            "line 5: ",
        ] {
            assert!(told.iter().any(|t| t.starts_with(expected)), "{expected}: {told:#?}");
        }
        assert_eq!(parse(b"serial\nPF-1\n").unwrap_err()[0].what, "there is no column `name`");
        assert_eq!(parse(b"name\n").unwrap_err()[0].what, "the table has no box");
        assert!(parse(b"\xff\xfe\x00").is_err());
    }
}
