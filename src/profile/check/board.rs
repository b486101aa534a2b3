//! What a profile may ask of a board.

use super::Check;
use crate::model::Arch;
use crate::profile::diagnostic::Fault;

impl Check<'_, '_> {
    pub(super) fn board(&mut self, arch: Arch) {
        let board = self.word(&["image", "board"], "generic-uefi");
        let place = self.place(&["image", "board"]);
        if ["raspberry-pi", "jetson-orin"].contains(&board) && arch == Arch::Amd64 {
            let fault = Fault::new(
                place,
                format!("there is no {arch} `{board}`"),
                "set `image.arch` to [\"arm64\"], or the board in `[arch.arm64.image]`",
            );
            self.fault(fault);
            return;
        }
        if board == "jetson-orin" {
            // No distribution's kernel drives its chip: trixie's is built without it.
            let example = "\"https://…/linux-image-….deb\", a kernel built for Tegra234";
            self.needed("image", &[("kernel", example)], &format!("board `{board}`"), place);
        }
        if arch == Arch::Amd64 {
            let because = self.place(&["image", "arch"]);
            self.pointless("image", &["devicetree"], &format!("{arch}, which has ACPI"), because);
        }
        if board != "raspberry-pi" {
            self.pointless("image", &["board-firmware"], &format!("board `{board}`"), place);
            return;
        }
        for node in self.root.items(&["image", "artifacts"]) {
            // Its loader reads neither an ISO nor a server's UEFI image.
            if let Some(artifact @ ("iso" | "netboot")) = node.text() {
                let fault = Fault::new(
                    node.place,
                    format!("no `{board}` starts from `{artifact}`"),
                    "use \"disk\" and write it with `forge flash`",
                );
                self.fault(fault.related(place, "because of this"));
            }
        }
        let base = self.word(&["os", "base"], "");
        if !base.is_empty() && !base.starts_with("debian:") {
            let fault = Fault::new(
                self.place(&["os", "base"]),
                format!("board `{board}` takes its firmware and U-Boot from Debian's packages"),
                "use a base `debian:SUITE`",
            );
            self.fault(fault.related(place, "because of this"));
        }
    }
}
