//! What spans more than one key: what needs something, what excludes something, what would never work.

mod board;
mod cluster;
mod kubeedge;
mod palette;
mod secure_boot;
mod workload;

use super::diagnostic::{Fault, Place};
use super::fragment::{Node, Value};
use super::shape::Reader;
use super::value::size;
use crate::model::Arch;
use crate::secret;

/// Looks at the merged tree of one architecture. It may still have faults of its own; what is not as it should be is
/// passed over, for it has been told.
pub fn check(root: &Node, arch: Arch, reader: &mut Reader<'_>) {
    let mut check = Check { root, reader };
    check.image(arch);
    check.install();
    check.system();
    check.runtime();
    check.agent();
    check.workloads(arch);
    check.helm();
    check.gitops();
    check.enrollment();
    check.secure_boot();
    check.encrypted_state();
    check.secrets();
}

struct Check<'c, 'r> {
    root: &'c Node,
    reader: &'c mut Reader<'r>,
}

impl<'c> Check<'c, '_> {
    fn fault(&mut self, fault: Fault) {
        self.reader.fault(fault);
    }

    /// The place of the value at `path`, or of the innermost table on the way that is there.
    fn place(&self, path: &[&str]) -> Place {
        let found = (0..=path.len()).rev().find_map(|n| self.root.at(&path[..n]));
        found.unwrap_or(self.root).place
    }

    fn word(&self, path: &[&str], default: &'c str) -> &'c str {
        self.root.at(path).and_then(Node::text).unwrap_or(default)
    }

    /// Refuses values that the choice at `because` leaves without effect.
    fn pointless(&mut self, table: &str, keys: &[&str], choice: &str, because: Place) {
        for key in keys {
            if let Some(node) = self.root.at(&[table, key]) {
                let fault = Fault::new(
                    node.place,
                    format!("`{table}.{key}` has no effect with {choice}"),
                    format!("remove `{key}`"),
                );
                self.fault(fault.related(because, "because of this"));
            }
        }
    }

    /// Demands keys that the choice at `because` needs.
    fn needed(&mut self, table: &str, keys: &[(&str, &str)], choice: &str, because: Place) {
        for (key, example) in keys {
            let node = self.root.at(&[table, key]);
            if node.is_none_or(|node| node.list().is_some_and(<[Node]>::is_empty)) {
                let fault = Fault::new(
                    because,
                    format!("{choice} needs `{table}.{key}`"),
                    format!("add {key} = {example}"),
                );
                self.fault(fault);
            }
        }
    }

    fn image(&mut self, arch: Arch) {
        for key in ["arch", "artifacts", "disk-formats"] {
            if let Some(node) = self.root.at(&["image", key])
                && node.list().is_some_and(<[Node]>::is_empty)
            {
                let fault = Fault::new(
                    node.place,
                    format!("`image.{key}` is empty"),
                    "name one at least, or remove the key for the default",
                );
                self.fault(fault);
            }
        }
        self.board(arch);
    }

    fn install(&mut self) {
        let Some(install) = self.root.at(&["install"]) else { return };
        for key in ["serial", "model"] {
            if let Some(node) = install.at(&["disk", key])
                && node.text().is_some_and(|text| text.trim().is_empty() || text.trim() != text)
            {
                let fault = Fault::new(
                    node.place,
                    format!("`install.disk.{key}` is empty, or has spaces around it"),
                    "write it as the disk says it, or remove the key",
                );
                self.fault(fault);
            }
        }
        let said = |key| install.at(&["disk", key]).and_then(|node| Some((node, size(node.text()?)?)));
        if let (Some((_, least)), Some((node, most))) = (said("min-size"), said("max-size"))
            && least > most
        {
            let fault = Fault::new(
                node.place,
                "no disk is at least `min-size` and at most `max-size`",
                "make it the larger of the two",
            );
            self.fault(fault.related(self.place(&["install", "disk", "min-size"]), "the least"));
        }
    }

    fn system(&mut self) {
        for node in self.root.items(&["os", "kernel-args"]) {
            // The command line is forge's statement of what boots; a second root or init would void the verity chain.
            let own =
                ["root", "roothash", "roothashsig", "usrhash", "init", "rdinit", "systemd.verity", "initrd"];
            let key = node.text().unwrap_or_default().split('=').next().unwrap_or_default();
            if own.contains(&key) {
                let fault = Fault::new(
                    node.place,
                    format!("`{key}` is set by forge, from the verity root hash"),
                    "remove it",
                );
                self.fault(fault);
            }
        }
        for user in self.root.items(&["os", "user"]) {
            if let Some(name) = user.at(&["name"])
                && let Some(text) = name.text()
                && SYSTEM_USERS.contains(&text)
            {
                let fault = Fault::new(
                    name.place,
                    format!("`{text}` is an account of the system"),
                    "name a person or a team; the system's accounts stay as they are",
                );
                self.fault(fault);
            }
            if let Some(keys) = user.at(&["ssh-keys"])
                && keys.list().is_some_and(<[Node]>::is_empty)
            {
                let fault = Fault::new(
                    keys.place,
                    "a user without keys can never log in",
                    "add a public key, or remove the user",
                );
                self.fault(fault);
            }
        }
        for file in self.root.items(&["os", "file"]) {
            if let Some(path) = file.at(&["path"])
                && let Some(text @ ("/etc/shadow" | "/etc/gshadow" | "/etc/machine-id")) = path.text()
            {
                let fault = Fault::new(
                    path.place,
                    format!("`{text}` is not for a profile to write"),
                    "users go into `[[os.user]]`; the device makes its own identity",
                );
                self.fault(fault);
            }
        }
        self.one_content(self.root.items(&["os", "file"]));
        for container in self.root.items(&["container"]) {
            self.one_content(container.items(&["files"]));
        }
    }

    fn one_content(&mut self, files: &'c [Node]) {
        for file in files {
            match (file.at(&["content"]), file.at(&["source"])) {
                (Some(content), Some(source)) => {
                    let fault = Fault::new(
                        source.place,
                        "a file has `content` or `source`, not both",
                        "remove one of them",
                    );
                    self.fault(fault.related(content.place, "the other"));
                }
                (None, None) if file.table().is_some() => {
                    let fault = Fault::new(
                        file.place,
                        "a file needs its content",
                        "add content = \"…\" or source = \"PATH\"",
                    );
                    self.fault(fault);
                }
                _ => {}
            }
        }
    }

    fn runtime(&mut self) {
        let place = self.place(&["kubernetes", "distribution"]);
        let distribution = self.word(&["kubernetes", "distribution"], "none");
        let role = self.word(&["kubernetes", "role"], "server");
        match distribution {
            "none" | "podman" => {
                let choice = format!("distribution `{distribution}`");
                self.pointless(
                    "kubernetes",
                    &["version", "role", "source", "airgap-images", "config", "registries"],
                    &choice,
                    place,
                );
            }
            "k3s" | "rke2" => self.cluster(distribution, place),
            _ => {}
        }
        let autonomous = self.root.at(&["site", "autonomous"]);
        if role == "agent"
            && let Some(autonomous) = autonomous.filter(|node| node.value == Value::Boolean(true))
        {
            let fault = Fault::new(
                self.place(&["kubernetes", "role"]),
                "an agent cannot run alone, but the site is autonomous",
                "use role = \"server\", which runs alone and can still be managed by a fleet",
            );
            self.fault(fault.label("needs a server").related(autonomous.place, "must serve with no link"));
        }
    }

    fn agent(&mut self) {
        let place = self.place(&["agent", "kind"]);
        match self.word(&["agent", "kind"], "none") {
            "none" => self.pointless("agent", &["version", "source", "config"], "kind `none`", place),
            "kubeedge" => self.kubeedge(place),
            "palette" => self.palette(place),
            _ => {}
        }
    }

    fn enrollment(&mut self) {
        let place = self.place(&["enroll", "mode"]);
        match self.word(&["enroll", "mode"], "none") {
            "none" => self.pointless(
                "enroll",
                &[
                    "endpoints",
                    "trust",
                    "ticket",
                    "inventory",
                    "shelf-life",
                    "fleet",
                    "proxy",
                    "proxy-ca",
                    "splay",
                    "require-tpm",
                    "portal",
                    "support",
                ],
                "mode `none`",
                place,
            ),
            "fleet" => {
                let keys = [
                    ("endpoints", "[\"https://fleet.example:8443\"]"),
                    ("trust", "[\"keys/fleet-root.pub\"]"),
                ];
                self.needed("enroll", &keys, "mode `fleet`", place);
            }
            "direct" => {
                self.needed("enroll", &[("trust", "[\"keys/fleet-root.pub\"]")], "mode `direct`", place)
            }
            _ => {}
        }
    }

    /// Searches what is typed in the profile and goes into the image. Files are searched when they are read.
    fn secrets(&mut self) {
        let config = ["kubernetes", "agent"].map(|table| [table, "config"]);
        for path in [&["os"][..], &config[0], &["kubernetes", "registries"], &config[1], &["container"]] {
            if let Some(node) = self.root.at(path) {
                self.secret(node);
            }
        }
        for table in ["kubernetes", "agent"] {
            let config = self.root.at(&[table, "config"]).and_then(Node::table);
            for (key, entry) in config.into_iter().flatten() {
                let credential = ["token", "agent-token", "password", "datastore-endpoint", "secret-key"];
                if credential.contains(&key.as_str()) {
                    self.fault(Fault::new(entry.key, format!("`{key}` is a credential"), secret::HELP));
                }
            }
        }
    }

    fn secret(&mut self, node: &'c Node) {
        match &node.value {
            Value::String(text) => {
                if let Some(secret) = secret::find(text) {
                    let fault = Fault::new(node.place, format!("{} in a profile", secret.what), secret::HELP);
                    self.fault(fault);
                }
            }
            Value::List(items) => items.iter().for_each(|item| self.secret(item)),
            Value::Table(table) => table.values().for_each(|entry| self.secret(&entry.node)),
            _ => {}
        }
    }
}

/// Accounts that base-passwd and systemd make.
const SYSTEM_USERS: [&str; 12] = [
    "root",
    "daemon",
    "bin",
    "sys",
    "mail",
    "backup",
    "nobody",
    "messagebus",
    "sshd",
    "systemd-network",
    "systemd-resolve",
    "systemd-timesync",
];
