//! What the box says of itself: SMBIOS (dmi/id) or device tree, permanent hardware addresses.

use crate::device::effects::Link;
use crate::enroll::evidence::Facts;
use std::io::Read as _;
use std::path::Path;

/// The longest value that is read, in bytes: SMBIOS strings have 64 by convention.
const MAX_VALUE: u64 = 256;

/// The facts below `root` (`/`), with the addresses of `links`. Junk is left in: [`Facts::cleaned`] knows it.
pub fn facts(root: &Path, links: &[Link]) -> Facts {
    let dmi = |name: &str| value(&root.join("sys/class/dmi/id").join(name));
    // Boards without SMBIOS have a device tree, whose strings end with a NUL.
    let tree = |name: &str| value(&root.join("proc/device-tree").join(name));
    let model = [dmi("sys_vendor"), dmi("product_name")].into_iter().flatten().collect::<Vec<_>>().join(" ");
    Facts {
        serial: dmi("product_serial").or_else(|| tree("serial-number")),
        board_serial: dmi("board_serial"),
        smbios_uuid: dmi("product_uuid").map(|uuid| uuid.to_ascii_lowercase()),
        model: if model.is_empty() { tree("model").unwrap_or_default() } else { model },
        macs: links.iter().filter_map(|l| l.mac.clone()).collect(),
        ek_sha256: None,
    }
}

fn value(file: &Path) -> Option<String> {
    let mut bytes = vec![];
    std::fs::File::open(file).ok()?.take(MAX_VALUE).read_to_end(&mut bytes).ok()?;
    let text = String::from_utf8_lossy(&bytes);
    let text: String = text.chars().filter(|c| !c.is_control()).collect();
    Some(text.trim().to_string()).filter(|text| !text.is_empty())
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::host::fs;

    #[test]
    fn smbios_comes_before_the_device_tree() {
        let dir = tempfile::tempdir().unwrap();
        let put = |path: &str, text: &str| {
            fs::write_atomic(&dir.path().join(path), text.as_bytes(), 0o444).unwrap();
        };
        put("proc/device-tree/serial-number", "100000001\0");
        put("proc/device-tree/model", "A Board 4\0");
        let links = [Link { mac: Some("52:54:00:00:00:01".into()), ..Link::default() }, Link::default()];
        let facts_now = facts(dir.path(), &links);
        assert_eq!((facts_now.serial.as_deref(), &*facts_now.model), (Some("100000001"), "A Board 4"));
        assert_eq!(facts_now.macs, ["52:54:00:00:00:01"]);
        put("sys/class/dmi/id/product_serial", "S-1\n");
        put("sys/class/dmi/id/sys_vendor", "Maker\n");
        put("sys/class/dmi/id/product_name", "Box\n");
        put("sys/class/dmi/id/product_uuid", "4C4C4544-0000-1000-8000-000000000001\n");
        let facts_now = facts(dir.path(), &[]);
        assert_eq!((facts_now.serial.as_deref(), &*facts_now.model), (Some("S-1"), "Maker Box"));
        assert_eq!(facts_now.smbios_uuid.as_deref(), Some("4c4c4544-0000-1000-8000-000000000001"));
    }
}
