//! Notices that a cable, an address or a stick came or went, so that nobody waits for the end of a pause at the box.
//!
//! rtnetlink's groups for ports and addresses, and the kernel's own uevents for block devices. Containers make and remove
//! ports all day: a message is only a reason to look, and what counts is whether the box's own ports are others.

use super::link;
use crate::device::effects::Link;
use rustix::event::{PollFd, PollFlags, Timespec, poll};
use rustix::fd::OwnedFd;
use rustix::net::netlink::{self, SocketAddrNetlink};
use rustix::net::{AddressFamily, RecvFlags, SocketFlags, SocketType};
use std::time::{Duration, Instant};

/// linux/rtnetlink.h: RTMGRP_LINK, RTMGRP_IPV4_IFADDR, RTMGRP_IPV6_IFADDR.
const ROUTE_GROUPS: u32 = 0x1 | 0x10 | 0x100;
/// The kernel's uevents, before udev has looked at them.
const UEVENT_GROUP: u32 = 1;
/// After a message this long is waited, so that a stick's partitions and a lease's address are all there.
const SETTLE: Duration = Duration::from_secs(2);

/// Listens.
pub struct Wake {
    route: OwnedFd,
    uevent: OwnedFd,
    links: Vec<Link>,
}

impl Wake {
    /// Begins to listen.
    ///
    /// # Errors
    /// What the kernel says.
    pub fn listen() -> rustix::io::Result<Wake> {
        let socket = |protocol, groups| -> rustix::io::Result<OwnedFd> {
            let flags = SocketFlags::CLOEXEC | SocketFlags::NONBLOCK;
            let fd = rustix::net::socket_with(AddressFamily::NETLINK, SocketType::RAW, flags, protocol)?;
            rustix::net::bind(&fd, &SocketAddrNetlink::new(0, groups))?;
            Ok(fd)
        };
        Ok(Wake {
            route: socket(None, ROUTE_GROUPS)?,
            uevent: socket(Some(netlink::KOBJECT_UEVENT), UEVENT_GROUP)?,
            links: link::all().unwrap_or_default(),
        })
    }

    /// Waits for at most `limit`; whether anything changed.
    pub fn wait(&mut self, limit: Duration) -> bool {
        let end = Instant::now() + limit;
        loop {
            let left = end.saturating_duration_since(Instant::now());
            let timeout = Timespec { tv_sec: left.as_secs() as i64, tv_nsec: i64::from(left.subsec_nanos()) };
            let mut fds = [PollFd::new(&self.route, PollFlags::IN), PollFd::new(&self.uevent, PollFlags::IN)];
            if !matches!(poll(&mut fds, Some(&timeout)), Ok(1..)) {
                return false;
            }
            std::thread::sleep(SETTLE.min(left));
            drain(&self.route, |_| {});
            let mut volume = false;
            drain(&self.uevent, |message| volume |= is_volume(message));
            let links = link::all().unwrap_or_default();
            let changed = links != self.links;
            self.links = links;
            if changed || volume {
                return true;
            }
        }
    }
}

/// Reads what is there. Where the kernel dropped messages, what is left is enough to look.
fn drain(fd: &OwnedFd, mut each: impl FnMut(&[u8])) {
    let mut buffer = [0; 8192];
    while let Ok((got @ 1.., _)) = rustix::net::recv(fd, &mut buffer[..], RecvFlags::DONTWAIT) {
        each(&buffer[..got]);
    }
}

/// Whether an uevent tells of a disk or partition that came or changed its medium.
fn is_volume(message: &[u8]) -> bool {
    let has = |wanted: &[u8]| message.split(|b| *b == 0).any(|field| field == wanted);
    has(b"SUBSYSTEM=block") && (has(b"ACTION=add") || has(b"ACTION=change"))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_pause_without_news_lasts_and_ends() {
        let mut wake = Wake::listen().unwrap();
        let before = Instant::now();
        assert!(!wake.wait(Duration::from_millis(60)));
        assert!(before.elapsed() >= Duration::from_millis(50));
    }

    #[test]
    fn a_stick_is_told_apart_from_other_news() {
        assert!(is_volume(b"add@/devices/x\0ACTION=add\0SUBSYSTEM=block\0DEVNAME=sda1\0"));
        assert!(!is_volume(b"add@/devices/x\0ACTION=add\0SUBSYSTEM=net\0"));
        assert!(!is_volume(b"remove@/devices/x\0ACTION=remove\0SUBSYSTEM=block\0"));
    }
}
