//! Palette's settings against its reference: exactly the documented keys below `stylus`.
//!
//! Source: Palette's "Edge Installer Configuration Reference". Its agent passes over a key that it does not know, and the
//! box comes up as if nothing had been said.

use super::Check;
use crate::profile::diagnostic::{Fault, Place};
use crate::profile::fragment::Node;
use crate::profile::suggest;
use crate::secret;

/// What a key takes.
enum Takes {
    /// A value of its own; a list of words is one, too.
    Value,
    /// Keys of the box's own choice with values.
    Words,
    /// These keys.
    Keys(&'static [(&'static str, Takes)]),
    /// Names of the box's own choice, each with these keys.
    Each(&'static [(&'static str, Takes)]),
    /// A list of tables with these keys.
    Items(&'static [(&'static str, Takes)]),
    /// A credential: never in a profile.
    Secret,
    /// Known, and written by forge.
    Forges(&'static str),
}
use Takes::{Each, Forges, Items, Keys, Secret, Value, Words};

const REGISTRY: &[(&str, Takes)] = &[
    ("domain", Value),
    ("username", Value),
    ("password", Secret),
    ("repositoryName", Value),
    ("certificates", Value),
    ("insecure", Value),
    ("encodedPassword", Value),
];

const INTERFACE: &[(&str, Takes)] =
    &[("ipAddress", Value), ("mask", Value), ("type", Value), ("gateway", Value), ("nameserver", Value)];

const NETWORK: &[(&str, Takes)] = &[
    ("httpProxy", Value),
    ("httpsProxy", Value),
    ("noProxy", Value),
    ("nameserver", Value),
    ("interfaces", Each(INTERFACE)),
];

const SITE: &[(&str, Takes)] = &[
    ("caCerts", Value),
    ("clusterId", Value),
    ("clusterName", Value),
    ("deviceUIDPaths", Items(&[("name", Value), ("regex", Value)])),
    ("edgeHostToken", Forges("`[export.palette] token`, which says where it is")),
    ("hostName", Forges("the inventory's column `name`")),
    ("insecureSkipVerify", Value),
    ("name", Forges("the inventory's column `name`")),
    ("network", Keys(NETWORK)),
    ("ntpServers", Value),
    ("paletteEndpoint", Value),
    ("prefix", Value),
    ("projectName", Value),
    ("projectUid", Value),
    ("registrationURL", Value),
    ("remoteShell", Keys(&[("disable", Value)])),
    ("tags", Words),
    ("tagsFromFile", Keys(&[("fileName", Value), ("delimiter", Value), ("separator", Value)])),
    ("tagsFromScript", Keys(&[("scriptName", Value), ("timeout", Value)])),
];

const LOGIN: &[(&str, Takes)] = &[
    ("attemptsBeforeExponentialDelayStarts", Value),
    ("disableRateLimiting", Value),
    ("lockoutDurationInMinutes", Value),
    ("maxFailedAttemptsBeforeLockout", Value),
];

const STYLUS: &[(&str, Takes)] = &[
    ("debug", Value),
    ("disablePasswordUpdate", Value),
    ("disableTui", Value),
    ("enableMultiNode", Value),
    ("externalRegistries", Keys(&[("registries", Items(REGISTRY)), ("registryMappingRules", Words)])),
    ("featureGate", Value),
    ("imageRedirectWebhook", Keys(&[("enable", Value), ("port", Value)])),
    ("includeTui", Value),
    ("localUI", Keys(&[("login", Keys(LOGIN)), ("port", Value)])),
    ("managementMode", Value),
    ("path", Value),
    ("registryCredentials", Keys(REGISTRY)),
    ("site", Keys(SITE)),
    ("trace", Value),
    ("vip", Keys(&[("skip", Value)])),
];

impl<'c> Check<'c, '_> {
    /// `[agent]` with kind `palette`, chosen at `because`.
    pub(super) fn palette(&mut self, because: Place) {
        self.pointless("agent", &["version", "source"], "kind `palette`", because);
        if let Some(config) = self.root.at(&["agent", "config"]) {
            self.palette_keys(config, STYLUS, "stylus");
        }
    }

    fn palette_keys(&mut self, node: &'c Node, known: &'static [(&'static str, Takes)], path: &str) {
        for (key, entry) in node.table().into_iter().flatten() {
            let path = format!("{path}.{key}");
            let Some((_, takes)) = known.iter().find(|(name, _)| name == key) else {
                let names: Vec<&str> = known.iter().map(|(name, _)| *name).collect();
                let help = match suggest::nearest(key, &names) {
                    Some(near) => format!("did you mean `{near}`?"),
                    None => format!("it knows {}", names.join(", ")),
                };
                self.fault(Fault::new(entry.key, format!("Palette knows no `{path}`"), help));
                continue;
            };
            let kind = match takes {
                Keys(_) | Each(_) | Words => "a table",
                Items(_) => "a list",
                Value if entry.node.table().is_some() => "a value",
                Value | Secret | Forges(_) => entry.node.kind(),
            };
            if kind != entry.node.kind() {
                let message = format!("`{path}` is {}, expected {kind}", entry.node.kind());
                self.fault(Fault::new(entry.node.place, message, "as Palette's reference has it"));
                continue;
            }
            match takes {
                Value | Words => {}
                Keys(known) => self.palette_keys(&entry.node, known, &path),
                Each(known) => {
                    for (name, one) in entry.node.table().into_iter().flatten() {
                        self.palette_keys(&one.node, known, &format!("{path}.{name}"));
                    }
                }
                Items(known) => {
                    for item in entry.node.list().unwrap_or_default() {
                        self.palette_keys(item, known, &path);
                    }
                }
                Secret => {
                    self.fault(Fault::new(entry.key, format!("`{path}` is a credential"), secret::HELP))
                }
                Forges(from) => {
                    let fault = Fault::new(
                        entry.key,
                        format!("forge writes `{path}`"),
                        format!("it comes from {from}"),
                    );
                    self.fault(fault);
                }
            }
        }
    }
}
