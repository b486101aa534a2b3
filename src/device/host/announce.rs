//! Says over multicast DNS (RFC 6762) and service discovery (RFC 6763) where the box's page is: `forge-a1b2.local`.

use anyhow::Context as _;
use mdns_sd::{IfKind, IfPredicate, ServiceDaemon, ServiceInfo};
use std::path::Path;

/// A name that neighbours can look up, until it is dropped.
pub struct Announcement {
    daemon: ServiceDaemon,
    host: String,
}

impl Announcement {
    /// Announces a page at TCP `port` under the name that goes with the hardware address `mac`.
    ///
    /// # Errors
    /// What the sockets say.
    pub fn start(mac: &str, port: u16) -> anyhow::Result<Announcement> {
        // The box's own ports: a container's network has no neighbours who look for a box.
        let hardware =
            IfPredicate::new(|port| Path::new("/sys/class/net").join(&port.name).join("device").exists());
        Announcement::on(IfKind::Predicate(hardware), mac, port)
    }

    fn on(ports: IfKind, mac: &str, port: u16) -> anyhow::Result<Announcement> {
        let name = name(mac);
        let host = format!("{name}.local");
        let daemon = ServiceDaemon::new().context("listening for multicast DNS")?;
        daemon.disable_interface(IfKind::All)?;
        daemon.enable_interface(ports)?;
        let service = ServiceInfo::new(
            "_http._tcp.local.",
            &name,
            &format!("{host}."),
            "",
            port,
            &[("path", "/")][..],
        )?;
        daemon.register(service.enable_addr_auto())?;
        Ok(Announcement { daemon, host })
    }

    /// The name to type.
    pub fn host(&self) -> &str {
        &self.host
    }
}

impl Drop for Announcement {
    fn drop(&mut self) {
        let _ = self.daemon.shutdown(); // says good-bye to the neighbours' caches
    }
}

/// `52:54:00:12:a1:b2` → `forge-a1b2`.
fn name(mac: &str) -> String {
    let digits: Vec<char> = mac.chars().filter(char::is_ascii_hexdigit).collect();
    let last: String = digits[digits.len().saturating_sub(4)..].iter().collect();
    format!("forge-{}", last.to_ascii_lowercase())
}

#[cfg(test)]
mod tests {
    use super::*;
    use mdns_sd::HostnameResolutionEvent;

    #[test]
    fn a_box_is_called_by_the_end_of_its_address() {
        assert_eq!(name("52:54:00:12:A1:B2"), "forge-a1b2");
    }

    #[test]
    fn a_neighbour_finds_the_page() {
        // A box of this test run's own, for another may run beside it.
        let mac =
            format!("52:54:00:12:{:02x}:{:02x}", std::process::id() >> 8 & 255, std::process::id() & 255);
        let ours = Announcement::on(IfKind::LoopbackV4, &mac, 4280).unwrap();
        let neighbour = ServiceDaemon::new().unwrap();
        neighbour.disable_interface(IfKind::All).unwrap();
        neighbour.enable_interface(IfKind::LoopbackV4).unwrap();
        let found = neighbour.resolve_hostname(&format!("{}.", ours.host()), Some(20_000)).unwrap();
        let addresses = found.iter().find_map(|event| match event {
            HostnameResolutionEvent::AddressesFound(_, addresses) => Some(addresses),
            _ => None,
        });
        let addresses = addresses.expect("an answer");
        assert!(addresses.iter().any(|a| a.to_ip_addr().is_loopback()), "{addresses:?}");
        neighbour.shutdown().unwrap();
    }
}
