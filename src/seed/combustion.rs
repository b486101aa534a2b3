//! Combustion's script: run once, as root, in the new system's root before its first boot.
//!
//! Every word from outside stands in single quotes, and files travel in base64: nothing of a profile or an inventory is ever
//! read by the shell.

use super::files::{self, File};
use super::{Files, Seed};
use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;

/// The seed's files.
pub fn files(seed: &Seed) -> Files {
    vec![("combustion/script", script(seed))]
}

fn script(seed: &Seed) -> String {
    // No `# combustion: network` line: nothing here waits for a link.
    let mut script = String::from("#!/bin/bash\nset -euo pipefail\n\n");
    let mut all = vec![File { path: "/etc/hostname".into(), text: format!("{}\n", seed.name), mode: 0o644 }];
    all.extend(files::proxy(seed));
    all.extend(files::time(seed));
    all.extend(files::authorities(seed));
    all.extend(files::network_manager(seed));
    for file in &all {
        let path = quoted(&file.path);
        let parent = quoted(file.path.rsplit_once('/').map_or("/", |(dir, _)| dir));
        script += &format!(
            "mkdir -p {parent}\ninstall -m {:04o} /dev/null {path}\nbase64 -d >{path} <<'END'\n{}\nEND\n",
            file.mode,
            STANDARD.encode(&file.text)
        );
    }
    if !seed.authorities.is_empty() {
        script += "update-ca-certificates\n";
    }
    let zone = quoted(&format!("../usr/share/zoneinfo/{}", seed.timezone));
    script += &format!("ln -sf {zone} /etc/localtime\n");
    if !seed.users.is_empty() {
        // /home is a volume of its own there.
        script += "\nmountpoint -q /home || mount /home\n";
        for (name, keys) in &seed.users {
            let (name, dir) = (quoted(name), quoted(&format!("/home/{name}/.ssh")));
            script += &format!(
                "id {name} >/dev/null 2>&1 || useradd -m {name}\ninstall -d -m 0700 -o {name} {dir}\n"
            );
            let keys: Vec<String> = keys.iter().map(|key| quoted(key)).collect();
            script += &format!("printf '%s\\n' {} >{dir}/authorized_keys\n", keys.join(" "));
            script += &format!("chown {name} {dir}/authorized_keys\nchmod 0600 {dir}/authorized_keys\n");
        }
    }
    script + "\necho 'Configured by forge' >/etc/issue.d/combustion\n"
}

/// A word that a shell takes as it is.
fn quoted(word: &str) -> String {
    format!("'{}'", word.replace('\'', r"'\''"))
}

#[cfg(test)]
mod tests {
    use super::super::tests::{seed, text};
    use super::*;

    #[test]
    fn no_word_reaches_the_shell() {
        let script = text(&files(&seed()), "combustion/script");
        assert!(script.contains(r"'ssh-ed25519 AAAA ops@site'\''s'"), "{script}");
        let mut hostile = seed();
        hostile.proxy = Some("http://$(reboot)".into());
        assert!(!text(&files(&hostile), "combustion/script").contains("reboot"), "files travel in base64");
    }
}
