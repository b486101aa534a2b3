//! Ten thousand boxes join one endpoint: the real program in a process of its own, TLS on loopback, real keys.
//!
//! `bench-join FORGE WORK [BOXES [AT-A-TIME]]`. Each box has a connection of its own, as it would have. First all claim,
//! then all fetch their grants and acknowledge them; then all boxes are new ones behind a few connections that stay, as
//! from a site's proxy, which shows what the endpoint does without handshakes. Both ends share this machine's processors.
//! Ends with an error when a claim was lost or doubled.

#![allow(
    clippy::print_stdout,
    clippy::unwrap_used,
    reason = "a program for measuring, not the product's surface"
)]
#![allow(clippy::disallowed_methods, reason = "it starts the endpoint that it measures")]
#![allow(dead_code, reason = "the simulated boxes of the tests can do more than is measured")]

#[path = "../../tests/it/fleet/boxes.rs"]
mod boxes;
#[path = "../../tests/it/fleet/wire.rs"]
mod wire;

use anyhow::{Context as _, ensure};
use boxes::{Box, Fleet, hardware};
use forge::fleet::{Device, Home, Store};
use forge::sign::Signer as _;
use std::collections::BTreeSet;
use std::io::{BufRead as _, BufReader};
use std::path::Path;
use std::process::{Child, Command, Stdio};
use std::sync::Mutex;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::{Duration, Instant};
use wire::{Connection, Endpoint};

fn main() -> anyhow::Result<()> {
    let arguments: Vec<String> = std::env::args().skip(1).collect();
    let (forge, work) = match &arguments[..] {
        [forge, work, ..] => (forge, Path::new(work)),
        _ => anyhow::bail!("usage: bench-join FORGE WORK [BOXES [AT-A-TIME]]"),
    };
    let number = |n: usize, default: usize| arguments.get(n).map_or(Ok(default), |text| text.parse());
    let (count, at_a_time) = (number(2, 10_000)?, number(3, 64)?);
    let dir = work.join("fleet");
    let _ = std::fs::remove_dir_all(&dir);
    let fleet = Fleet::of_seed(1);
    let endpoint = start(forge, &dir, &fleet)?;
    let keys = Home::open(&dir)?.public()?.grant_keys;
    // Keys, tickets and bundles are the factory's work, and no part of what is measured.
    let made = |prefix: &str| -> Vec<Mutex<Box>> {
        (0..count)
            .map(|n| {
                let (name, serial) = (format!("{prefix}{n}"), format!("{prefix}SN{n}"));
                let mut one = Box::new(&name, &fleet, &fleet.own_bundle(&name, &serial), hardware(&serial));
                one.fleet_keys.clone_from(&keys);
                Mutex::new(one)
            })
            .collect()
    };
    println!("{count} boxes, {at_a_time} at a time");

    let boxes = made("s");
    let before = endpoint.cpu();
    let claims = run(&endpoint, &boxes, at_a_time, true, |one, connection| {
        assert_eq!(one.claim(&mut |request| connection.send(request).unwrap()).0, 201);
    });
    claims.tell("claimed, a connection each", &endpoint, before);
    let before = endpoint.cpu();
    let joins = run(&endpoint, &boxes, at_a_time, true, |one, connection| {
        let mut send = |request: &_| connection.send(request).unwrap();
        let grant = one.grant(&mut send).unwrap();
        assert_eq!(one.ack(&mut send, &grant), 200);
    });
    joins.tell("granted and acknowledged", &endpoint, before);
    let more = made("p");
    let before = endpoint.cpu();
    let pooled = run(&endpoint, &more, at_a_time, false, |one, connection| {
        assert_eq!(one.claim(&mut |request| connection.send(request).unwrap()).0, 201);
    });
    pooled.tell("claimed, connections that stay", &endpoint, before);

    // Each name once, each box once, and each that joined has joined.
    println!("endpoint's memory: {} MiB at most", endpoint.memory()? >> 10);
    drop(endpoint);
    let store = Store::open(&dir.join("fleet.db"))?;
    let devices = store.read(|c| Device::select(c, "", []))?;
    let names: BTreeSet<_> = devices.iter().filter_map(|d| d.node.clone()).collect();
    let joined = devices.iter().filter(|d| d.acked == 1).count();
    println!("lost {}, double {}, joined {joined}", 2 * count - devices.len(), devices.len() - names.len());
    ensure!(devices.len() == 2 * count && names.len() == devices.len() && joined == count, "lost or double");
    Ok(())
}

struct Running {
    child: Child,
    endpoint: Endpoint,
}

impl Running {
    /// Processor seconds so far.
    fn cpu(&self) -> f64 {
        let stat = std::fs::read_to_string(format!("/proc/{}/stat", self.child.id())).unwrap_or_default();
        let fields: Vec<&str> = stat.rsplit(')').next().unwrap_or_default().split_whitespace().collect();
        let ticks = |n: usize| fields.get(n).and_then(|t| t.parse::<f64>().ok()).unwrap_or_default();
        (ticks(11) + ticks(12)) / 100.0
    }

    /// The most memory so far, in KiB.
    fn memory(&self) -> anyhow::Result<u64> {
        let status = std::fs::read_to_string(format!("/proc/{}/status", self.child.id()))?;
        let line = status.lines().find_map(|l| l.strip_prefix("VmHWM:")).context("reading VmHWM")?;
        Ok(line.trim().trim_end_matches(" kB").parse()?)
    }
}

impl Drop for Running {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

fn start(forge: &str, dir: &Path, fleet: &Fleet) -> anyhow::Result<Running> {
    let root = dir.with_extension("root.pub");
    std::fs::create_dir_all(dir.parent().unwrap())?;
    std::fs::write(&root, fleet.root.public_key().to_pem())?;
    let mut child = Command::new(forge)
        .args(["--json", "fleet", "serve", "--name", "shops", "--listen", "127.0.0.1:0", "--trust"])
        .arg(root)
        .arg(dir)
        .stdout(Stdio::piped())
        .spawn()?;
    let lines = BufReader::new(child.stdout.take().context("no output")?).lines();
    let said = lines.map_while(Result::ok).map(|l| serde_json::from_str::<serde_json::Value>(&l));
    let listening = said.flatten().find(|v| v["type"] == "listening").context("it does not listen")?;
    let address = listening["address"].as_str().context("no address")?.parse()?;
    let spki = Home::open(dir)?.public()?.spki_sha256[0];
    Ok(Running { child, endpoint: Endpoint::pinned(address, spki) })
}

struct Measured {
    wall: Duration,
    each: Vec<Duration>,
}

impl Measured {
    fn tell(&self, what: &str, endpoint: &Running, before: f64) {
        let mut each = self.each.clone();
        each.sort();
        let at = |part: f64| each[((each.len() - 1) as f64 * part) as usize].as_secs_f64() * 1e3;
        let cpu = endpoint.cpu() - before;
        println!(
            "{what:32} {:7.2} s  {:6.0}/s  p50 {:5.1} ms  p99 {:6.1} ms  endpoint's CPU {cpu:5.2} s ({:.0} us each)",
            self.wall.as_secs_f64(),
            each.len() as f64 / self.wall.as_secs_f64(),
            at(0.5),
            at(0.99),
            cpu * 1e6 / each.len() as f64,
        );
    }
}

/// Does `work` with every box, `at_a_time` of them; with a connection of its own each, or one that a thread keeps.
fn run(
    running: &Running,
    boxes: &[Mutex<Box>],
    at_a_time: usize,
    own: bool,
    work: impl Fn(&mut Box, &mut Connection) + Sync,
) -> Measured {
    let (next, each) = (AtomicUsize::new(0), Mutex::new(Vec::with_capacity(boxes.len())));
    let start = Instant::now();
    std::thread::scope(|scope| {
        for _ in 0..at_a_time {
            scope.spawn(|| {
                let mut kept = None;
                while let Some(one) = boxes.get(next.fetch_add(1, Ordering::Relaxed)) {
                    let begun = Instant::now();
                    if own {
                        kept = None;
                    }
                    let connection = kept.get_or_insert_with(|| running.endpoint.connect().unwrap());
                    work(&mut one.lock().unwrap(), connection);
                    let took = begun.elapsed();
                    each.lock().unwrap().push(took);
                }
            });
        }
    });
    Measured { wall: start.elapsed(), each: each.into_inner().unwrap() }
}
