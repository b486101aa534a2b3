//! Which network ports the box has, and what each has: hardware address, cable, addresses. Asked of the kernel over
//! rtnetlink(7), where alone the address that a port was made with is told apart from one that was set.

use crate::device::effects::Link;
use crate::model::digest;
use anyhow::{Context as _, bail};
use rustix::net::netlink::SocketAddrNetlink;
use rustix::net::{AddressFamily, RecvFlags, SendFlags, SocketFlags, SocketType};
use std::collections::BTreeMap;
use std::net::IpAddr;
use std::path::Path;

/// Every Ethernet-like port that is a piece of hardware, by name: a VLAN, bridge or container's pair is none.
///
/// # Errors
/// What the kernel says.
pub fn all() -> anyhow::Result<Vec<Link>> {
    let mut links = BTreeMap::new();
    for message in dump(GET_LINK).context("asking the kernel for its network ports")? {
        read_link(&message, &mut links);
    }
    for message in dump(GET_ADDRESS).context("asking the kernel for its addresses")? {
        read_address(&message, &mut links);
    }
    let mut found: Vec<Link> = links.into_values().collect();
    found.retain(|link| Path::new("/sys/class/net").join(&link.name).join("device").exists());
    found.sort_by(|a, b| a.name.cmp(&b.name));
    Ok(found)
}

/// rtnetlink's numbers, from linux/netlink.h, rtnetlink.h, if_link.h and if_addr.h.
const GET_LINK: u16 = 18;
const GET_ADDRESS: u16 = 22;
const REQUEST_DUMP: u16 = 0x301;
const DONE: u16 = 3;
const ERROR: u16 = 2;
const IFLA_ADDRESS: u16 = 1;
const IFLA_IFNAME: u16 = 3;
const IFLA_CARRIER: u16 = 33;
const IFLA_PERM_ADDRESS: u16 = 54;
const IFA_ADDRESS: u16 = 1;
const IFA_LOCAL: u16 = 2;
const ETHER: u16 = 1;
const SCOPE_GLOBAL: u8 = 0;
const SCOPE_SITE: u8 = 200;
/// Bytes of a message's head, and of the fixed part of a link and of an address.
const HEAD: usize = 16;
const LINK: usize = 16;
const ADDRESS: usize = 8;
/// The most messages of one dump: a box has a dozen ports, a host of containers some hundreds.
const MAX_MESSAGES: usize = 16384;

/// The payloads of the messages that answer a dump request.
fn dump(what: u16) -> anyhow::Result<Vec<Vec<u8>>> {
    let socket = rustix::net::socket_with(
        AddressFamily::NETLINK,
        SocketType::RAW,
        SocketFlags::CLOEXEC,
        None, // protocol 0 is NETLINK_ROUTE
    )?;
    rustix::net::sockopt::set_socket_timeout(
        &socket,
        rustix::net::sockopt::Timeout::Recv,
        Some(std::time::Duration::from_secs(5)),
    )?;
    rustix::net::bind(&socket, &SocketAddrNetlink::new(0, 0))?;
    // Head: length, type, flags, sequence, port; then a family of "any" in a link's fixed part.
    let mut request = vec![];
    request.extend_from_slice(&((HEAD + LINK) as u32).to_ne_bytes());
    request.extend_from_slice(&what.to_ne_bytes());
    request.extend_from_slice(&REQUEST_DUMP.to_ne_bytes());
    request.extend_from_slice(&1u32.to_ne_bytes());
    request.extend_from_slice(&[0; 4 + LINK]);
    rustix::net::sendto(&socket, &request, SendFlags::empty(), &SocketAddrNetlink::new(0, 0))?;
    let mut found = vec![];
    // The kernel's own size for the parts of a dump.
    let mut buffer = vec![0; 32 << 10];
    loop {
        let (got, _) = rustix::net::recv(&socket, &mut buffer[..], RecvFlags::empty())?;
        let mut rest = &buffer[..got];
        if rest.is_empty() {
            bail!("the kernel closed the connection");
        }
        while rest.len() >= HEAD {
            let length = u32::from_ne_bytes([rest[0], rest[1], rest[2], rest[3]]) as usize;
            let kind = u16::from_ne_bytes([rest[4], rest[5]]);
            if !(HEAD..=rest.len()).contains(&length) {
                bail!("a message of {length} bytes in a room of {}", rest.len());
            }
            match kind {
                DONE => return Ok(found),
                ERROR => bail!("the kernel refuses"),
                _ => found.push(rest[HEAD..length].to_vec()),
            }
            if found.len() > MAX_MESSAGES {
                bail!("more than {MAX_MESSAGES} messages");
            }
            rest = &rest[length.next_multiple_of(4).min(rest.len())..];
        }
    }
}

fn read_link(message: &[u8], links: &mut BTreeMap<u32, Link>) {
    let Some((fixed, attributes)) = message.split_at_checked(LINK) else { return };
    if u16::from_ne_bytes([fixed[2], fixed[3]]) != ETHER {
        return;
    }
    let index = u32::from_ne_bytes([fixed[4], fixed[5], fixed[6], fixed[7]]);
    let mut link = Link::default();
    for (kind, value) in Attributes(attributes) {
        match kind {
            IFLA_IFNAME => {
                let text = value.split(|b| *b == 0).next().unwrap_or_default();
                link.name = String::from_utf8_lossy(text).into_owned();
            }
            IFLA_CARRIER => link.carrier = value.first() == Some(&1),
            IFLA_PERM_ADDRESS if value.len() == 6 => link.mac = Some(mac(value)),
            IFLA_ADDRESS => {} // can be set by anyone
            _ => {}
        }
    }
    // Names are paths below /sys/class/net: the kernel lets no slash in, and nor does this.
    if !link.name.is_empty() && !link.name.contains('/') && link.name != ".." {
        links.insert(index, link);
    }
}

fn read_address(message: &[u8], links: &mut BTreeMap<u32, Link>) {
    let Some((fixed, attributes)) = message.split_at_checked(ADDRESS) else { return };
    let index = u32::from_ne_bytes([fixed[4], fixed[5], fixed[6], fixed[7]]);
    let Some(link) = links.get_mut(&index) else { return };
    if !matches!(fixed[3], SCOPE_GLOBAL | SCOPE_SITE) {
        return;
    }
    // On a point-to-point link the plain one is the peer's.
    let (mut own, mut any) = (None, None);
    for (kind, value) in Attributes(attributes) {
        let ip = <[u8; 4]>::try_from(value)
            .map(IpAddr::from)
            .or_else(|_| <[u8; 16]>::try_from(value).map(IpAddr::from))
            .ok();
        match kind {
            IFA_LOCAL => own = ip,
            IFA_ADDRESS => any = ip,
            _ => {}
        }
    }
    link.addresses.extend(own.or(any));
}

/// Attributes of a message: length, type, value, padded to four bytes.
struct Attributes<'a>(&'a [u8]);

impl<'a> Iterator for Attributes<'a> {
    type Item = (u16, &'a [u8]);
    fn next(&mut self) -> Option<Self::Item> {
        let head = self.0.first_chunk::<4>()?;
        let length = usize::from(u16::from_ne_bytes([head[0], head[1]]));
        let kind = u16::from_ne_bytes([head[2], head[3]]) & 0x3fff; // the upper bits say "nested" and "big-endian"
        let value = self.0.get(4..length)?;
        self.0 = self.0.get(length.next_multiple_of(4)..).unwrap_or_default();
        Some((kind, value))
    }
}

fn mac(bytes: &[u8]) -> String {
    bytes.iter().map(|b| digest::hex(&[*b])).collect::<Vec<_>>().join(":")
}

#[cfg(test)]
mod tests {
    use super::*;

    fn attribute(kind: u16, value: &[u8]) -> Vec<u8> {
        let mut bytes = ((value.len() + 4) as u16).to_ne_bytes().to_vec();
        bytes.extend_from_slice(&kind.to_ne_bytes());
        bytes.extend_from_slice(value);
        bytes.resize(bytes.len().next_multiple_of(4), 0);
        bytes
    }

    #[test]
    fn a_port_is_read_with_the_address_it_was_made_with() {
        let mut links = BTreeMap::new();
        let mut message = vec![0; LINK];
        message[2..4].copy_from_slice(&ETHER.to_ne_bytes());
        message[4..8].copy_from_slice(&7u32.to_ne_bytes());
        for (kind, value) in [
            (IFLA_IFNAME, &b"enp1s0\0"[..]),
            (IFLA_ADDRESS, &[2, 0, 0, 0, 0, 9]),
            (IFLA_PERM_ADDRESS, &[0x52, 0x54, 0, 0, 0, 0xa1]),
            (IFLA_CARRIER, &[1]),
        ] {
            message.extend(attribute(kind, value));
        }
        read_link(&message, &mut links);
        for (family_scope, kind, value) in [
            (SCOPE_GLOBAL, IFA_LOCAL, &[192, 0, 2, 7][..]),
            (253, IFA_ADDRESS, &[0xfe, 0x80, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 1]),
        ] {
            let mut message = vec![0, 24, 0, family_scope];
            message.extend_from_slice(&7u32.to_ne_bytes());
            message.extend(attribute(kind, value));
            read_address(&message, &mut links);
        }
        let wanted = Link {
            name: "enp1s0".into(),
            mac: Some("52:54:00:00:00:a1".into()),
            carrier: true,
            addresses: vec!["192.0.2.7".parse().unwrap()],
        };
        assert_eq!(links.into_values().collect::<Vec<_>>(), [wanted]);
    }

    #[test]
    fn this_machine_has_no_loopback_among_its_ports() {
        assert!(all().unwrap().iter().all(|link| link.name != "lo"));
    }

    proptest::proptest! {
        #[test]
        fn no_message_makes_it_panic(bytes in proptest::collection::vec(0u8.., 0..200)) {
            let mut links = BTreeMap::from([(0, Link::default())]);
            read_link(&bytes, &mut links);
            read_address(&bytes, &mut links);
        }
    }
}
