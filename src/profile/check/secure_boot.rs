//! What a profile may ask of Secure Boot, and what of the state that is sealed to it.

use super::Check;
use crate::profile::diagnostic::Fault;
use crate::profile::fragment::{Node, Value};

/// Debian's releases before the first with a systemd-boot that Debian signed, trixie's.
const WITHOUT_LOADER: [&str; 4] = ["debian:buster", "debian:bullseye", "debian:bookworm", "debian:oldstable"];

impl Check<'_, '_> {
    pub(super) fn secure_boot(&mut self) {
        let keys = ["sign", "secure-boot"];
        let Some(shim) = self.root.at(&["sign", "secure-boot", "shim"]) else { return };
        if shim.value != Value::Boolean(true) {
            return;
        }
        let mut refuse = |at: &Node, what: String, help: &str| {
            let fault = Fault::new(at.place, what, help).related(shim.place, "because of this");
            self.reader.fault(fault);
        };
        if let Some(node) = self.root.at(&keys).and_then(|keys| keys.at(&["enroll"])) {
            let help = "remove `enroll`: a person enrols `mok.cer` once, in MokManager";
            refuse(node, "`sign.secure-boot.enroll` has no effect with shim".into(), help);
        }
        if let Some(node) = self.root.at(&["os", "base"])
            && let Some(base) = node.text()
        {
            if !base.starts_with("debian:") {
                let help = "use \"debian:trixie\" or later, or sign with keys of your own in the firmware";
                refuse(
                    node,
                    format!("shim and the boot loader that it takes are Debian's, not `{base}`'s"),
                    help,
                );
            } else if WITHOUT_LOADER.contains(&base) {
                let help = "use \"debian:trixie\" or later";
                refuse(node, format!("`{base}` has shim, and no systemd-boot that Debian signed"), help);
            }
        }
        if let Some(node) = self.root.at(&["image", "board"])
            && let Some(board @ "raspberry-pi") = node.text()
        {
            refuse(node, format!("no `{board}` checks signatures"), "remove `shim`");
        }
        for node in self.root.items(&["image", "artifacts"]) {
            if let Some(artifact @ ("iso" | "netboot")) = node.text() {
                let help =
                    "use \"disk\" and write it with `forge flash`, or have your own keys in the firmware";
                refuse(node, format!("`{artifact}` is not started by way of shim yet"), help);
            }
        }
    }

    /// State is sealed to what the firmware measures of Secure Boot: without it, or where others' systems start too, the key
    /// would open for anybody.
    pub(super) fn encrypted_state(&mut self) {
        let Some(state) = self.root.at(&["os", "encrypt-state"]).filter(|s| s.text() == Some("tpm2")) else {
            return;
        };
        if let Some(board) = self.root.at(&["image", "board"]).filter(|b| b.text() == Some("raspberry-pi")) {
            let fault = Fault::new(
                state.place,
                "no `raspberry-pi` measures what it starts, so that nothing could seal the state",
                "leave it out where state may lie in the clear; root and payload are verified either way",
            );
            self.fault(fault.related(board.place, "because of this"));
            return;
        }
        match self.root.at(&["sign", "secure-boot"]) {
            None => {
                let fault = Fault::new(
                    state.place,
                    "a state that the TPM opens needs Secure Boot, or it opens for whatever is started",
                    "add `secure-boot = { key = \"secure-boot.key\", cert = \"secure-boot.crt\" }` to [sign]",
                );
                self.fault(fault);
            }
            Some(keys) => {
                let shim = keys.at(&["shim"]).filter(|shim| shim.value == Value::Boolean(true));
                if let Some(shim) = shim {
                    let fault = Fault::new(
                        state.place,
                        "by way of shim others' systems start too, and could have the TPM open the state",
                        "have keys of your own in the firmware, and remove `shim`; or leave state in the clear",
                    );
                    self.fault(fault.related(shim.place, "because of this"));
                }
            }
        }
    }
}
