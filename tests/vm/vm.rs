//! A device in QEMU that ends with the test.

use crate::console::Console;
use forge::model::Arch;
use forge::run::qemu::{self, Acceleration, Forward, RunSpec, Serial};
use forge::run::tools::ToolRoot;
use forge::run::tpm::Swtpm;
use serde_json::{Value, json};
use std::io::{BufRead as _, BufReader, Read as _, Write as _};
use std::net::{TcpListener, TcpStream};
use std::os::unix::net::UnixStream;
use std::path::{Path, PathBuf};
use std::process::{Child, Stdio};
use std::time::{Duration, Instant};

/// What a device is booted with.
#[derive(Clone)]
pub struct Opts {
    /// Emulator and firmware.
    pub tools: ToolRoot,
    /// The disk's architecture.
    pub arch: Arch,
    /// Ports of the device that the test talks to.
    pub ports: Vec<u16>,
    /// Whether the firmware knows Secure Boot.
    pub secure_boot: bool,
    /// What it is started from when its disk starts nothing.
    pub medium: Option<qemu::Medium>,
    /// Another built-in disk.
    pub second: Option<PathBuf>,
    /// Its memory, in MiB.
    pub memory: u32,
    /// Its processors.
    pub cpus: u32,
    /// The programs of a TPM, where it has one: its state lies beside the disk.
    pub tpm: Option<ToolRoot>,
    /// Whether its network ends at this machine: addresses and forwarded ports, and nothing behind them.
    pub cut_off: bool,
}

/// A running device. Dropping it pulls the plug.
pub struct Vm {
    child: Child,
    // Ends after the emulator.
    _tpm: Option<Swtpm>,
    pub console: Console,
    forwards: Vec<Forward>,
    /// Where in the console's text the next [`Vm::wait_for`] looks from.
    at: usize,
    /// QEMU's machine protocol.
    keyboard: PathBuf,
}

impl Vm {
    /// Boots `disk`, a raw disk of the test's own, which keeps what the device writes. Firmware variables and console lie
    /// beside it.
    pub fn boot(disk: &Path, opts: &Opts) -> Vm {
        Vm::start(disk, opts, &|_| ())
    }

    /// As [`Vm::boot`], with the medium before the disk, as somebody sets it in the firmware.
    pub fn boot_medium_first(disk: &Path, opts: &Opts) -> Vm {
        Vm::start(disk, opts, &|argv| {
            for word in argv {
                let text = word.to_str().unwrap();
                if let Some(device) = text.strip_suffix("drive=disk,bootindex=0") {
                    *word = format!("{device}drive=disk,bootindex=9").into();
                }
            }
        })
    }

    /// As [`Vm::boot`]; when the disk starts nothing, UEFI's PXE gets the address of `program` in the folder `tftp`, as by a
    /// site's boot server.
    pub fn boot_by_tftp(disk: &Path, program: &str, tftp: &Path, opts: &Opts) -> Vm {
        Vm::start(disk, opts, &|argv| {
            for word in argv {
                let text = word.to_str().unwrap();
                if text.starts_with("user,id=net") {
                    *word = format!("{text},tftp={},bootfile={program}", tftp.display()).into();
                } else if text.starts_with("virtio-net-pci,") {
                    *word = format!("{text},bootindex=1").into();
                }
            }
        })
    }

    fn start(disk: &Path, opts: &Opts, change: &dyn Fn(&mut [std::ffi::OsString])) -> Vm {
        let beside = |name: &str| -> PathBuf { disk.with_extension(name) };
        let (code, empty) = qemu::firmware(opts.arch, opts.secure_boot);
        let variables = beside("vars");
        if !variables.exists() {
            std::fs::copy(opts.tools.file(empty).unwrap(), &variables).unwrap();
        }
        let console = beside("console");
        let _ = std::fs::remove_file(&console); // of the boot before
        let forwards: Vec<Forward> =
            opts.ports.iter().map(|guest| Forward { host: free_port(), guest: *guest }).collect();
        let keyboard = beside("qmp");
        let _ = std::fs::remove_file(&keyboard); // of the boot before
        let tpm = opts.tpm.as_ref().map(|tools| Swtpm::start(tools, &beside("tpm")).unwrap());
        let spec = RunSpec {
            arch: opts.arch,
            disk: disk.into(),
            persist: true,
            memory: opts.memory,
            cpus: opts.cpus,
            forwards: forwards.clone(),
            headless: true,
            serial: Serial::File(console.clone()),
            firmware: opts.tools.file(code).unwrap(),
            variables,
            data: opts.tools.path().join("usr/share/qemu"),
            medium: opts.medium.clone(),
            second: opts.second.clone(),
            stick: None,
            clock: None,
            wire: None,
            tpm: tpm.as_ref().map(|tpm| tpm.socket().to_path_buf()),
            secure_boot: opts.secure_boot,
            monitor: Some(keyboard.clone()),
            // Equal everywhere the tests run.
            acceleration: Acceleration::Tcg,
        };
        let mut argv = qemu::argv(&spec);
        if opts.cut_off {
            let net =
                argv.iter_mut().find(|word| word.to_str().is_some_and(|w| w.starts_with("user,id=net")));
            net.expect("an emulated network").push(",restrict=on");
        }
        change(&mut argv);
        let call = opts.tools.command(qemu::program(opts.arch)).unwrap().args(argv);
        let child = call.command().stdin(Stdio::null()).spawn().unwrap();
        Vm { child, _tpm: tpm, console: Console::new(&console), forwards, at: 0, keyboard }
    }

    /// Waits until the console says `text`, after what was waited for last; how long that took. Panics with the
    /// console's last lines when `timeout` passes or the emulator ends.
    pub fn wait_for(&mut self, text: &str, timeout: Duration) -> Duration {
        let start = Instant::now();
        loop {
            self.console.read();
            if let Some(n) = self.console.text()[self.at..].find(text) {
                self.at += n + text.len();
                return start.elapsed();
            }
            let ended = self.child.try_wait().unwrap();
            let tail = || self.console.tail();
            assert!(ended.is_none(), "the emulator ended ({ended:?}) before `{text}`:\n{}", tail());
            assert!(start.elapsed() < timeout, "no `{text}` after {timeout:?}:\n{}", tail());
            std::thread::sleep(Duration::from_millis(100));
        }
    }

    /// Whether the console has said `text` since it was turned on.
    pub fn has_said(&mut self, text: &str) -> bool {
        self.console.read();
        self.console.text().contains(text)
    }

    /// Asks `http://DEVICE:guest/` and tries again until something answers; the whole answer with its head.
    pub fn http_get(&self, guest: u16, timeout: Duration) -> String {
        let port = self.forwards.iter().find(|f| f.guest == guest).expect("a port of Opts::ports").host;
        let start = Instant::now();
        loop {
            let answer = ask(port).unwrap_or_default();
            if answer.starts_with("HTTP/") {
                return answer;
            }
            assert!(start.elapsed() < timeout, "nothing answers on port {guest}:\n{}", self.console.tail());
            std::thread::sleep(Duration::from_millis(500));
        }
    }

    /// Presses Ctrl-Alt-Del, on which systemd stops everything and starts the machine again.
    pub fn reboot(&self) {
        let keys = ["ctrl", "alt", "delete"].map(|key| json!({"type": "qcode", "data": key}));
        self.order(&[json!({"execute": "send-key", "arguments": {"keys": keys}})]);
    }

    /// Plugs the network cable in or out (QMP, `set_link`).
    pub fn link(&self, up: bool) {
        self.order(&[json!({"execute": "set_link", "arguments": {"name": "nic", "up": up}})]);
    }

    /// Has QEMU's machine protocol carry out `orders`.
    fn order(&self, orders: &[Value]) {
        let mut socket = (0..100)
            .find_map(|_| {
                let connected = UnixStream::connect(&self.keyboard).ok();
                if connected.is_none() {
                    std::thread::sleep(Duration::from_millis(100));
                }
                connected
            })
            .expect("the emulator's socket");
        let start = json!({"execute": "qmp_capabilities"});
        for order in [&start].into_iter().chain(orders) {
            writeln!(socket, "{order}").unwrap();
        }
        // A greeting, and an answer each; an answer says that the order was taken.
        let answers = BufReader::new(socket).lines().map(Result::unwrap);
        let taken = answers.filter(|line| line.contains("\"return\"")).take(orders.len() + 1).count();
        assert_eq!(taken, orders.len() + 1);
    }

    /// Waits until the device has turned itself off.
    pub fn wait_for_end(mut self, timeout: Duration) {
        let start = Instant::now();
        while self.child.try_wait().unwrap().is_none() {
            self.console.read();
            assert!(start.elapsed() < timeout, "it still runs:\n{}", self.console.tail());
            std::thread::sleep(Duration::from_millis(100));
        }
    }

    /// Pulls the plug.
    pub fn power_off_hard(mut self) {
        self.end();
    }

    fn end(&mut self) {
        let _ = self.child.kill(); // it may have ended
        let _ = self.child.wait();
    }
}

impl Drop for Vm {
    fn drop(&mut self) {
        self.end();
    }
}

/// Asks `http://127.0.0.1:port/`; the whole answer with its head.
pub fn ask(port: u16) -> std::io::Result<String> {
    let mut stream = TcpStream::connect(("127.0.0.1", port))?;
    stream.set_read_timeout(Some(Duration::from_secs(10)))?;
    stream.write_all(b"GET / HTTP/1.1\r\nHost: device\r\nConnection: close\r\n\r\n")?;
    let mut answer = vec![];
    stream.read_to_end(&mut answer)?;
    Ok(String::from_utf8_lossy(&answer).into_owned())
}

/// A port that was free a moment ago: the emulator takes no listening socket.
pub fn free_port() -> u16 {
    TcpListener::bind(("127.0.0.1", 0)).unwrap().local_addr().unwrap().port()
}
