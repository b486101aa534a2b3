//! Threats 10 and 33: secrets where they do not belong.

use super::*;
use base64::Engine as _;
use base64::engine::general_purpose::{STANDARD, URL_SAFE};
use forge::enroll::bundle;

/// Spellings of a secret.
fn spellings(secret: &[u8]) -> Vec<Vec<u8>> {
    let hex: String = secret.iter().map(|b| format!("{b:02x}")).collect();
    let decimal: Vec<String> = secret.iter().map(u8::to_string).collect();
    vec![
        secret.to_vec(),
        STANDARD.encode(secret).into_bytes(),
        URL_SAFE.encode(secret).into_bytes(),
        hex.to_uppercase().into_bytes(),
        hex.into_bytes(),
        decimal.join(", ").into_bytes(),
    ]
}

fn contains(haystack: &[u8], needle: &[u8]) -> bool {
    haystack.windows(needle.len()).any(|window| window == needle)
}

#[test]
fn threat_33_no_secret_on_screen_wire_log_or_page() {
    let fleet = SimFleet::new(Default::default());
    let bundle = fleet.keys.bundle("b", forge::enroll::bootstrap::Mode::Device, 1, |b| {
        b.devices = vec![crate::fleet::boxes::row("store-042", "S1")];
        b.policy.portal = Some("https://portal.example".into());
    });
    let mut sim = SimBox::new(&fleet, "S1", Some(files(&bundle)));
    // Some weather, so that errors are told as well.
    sim.weather = Box::new(|n, _| match n {
        0 | 3 => Fate::AnswerLost,
        5 => Fate::Answered(200, b"<html>".to_vec()),
        _ => Fate::Through,
    });
    let mut sim = join(sim);
    sim.restart();
    let sim = join(sim);
    let mut secrets: Vec<Vec<u8>> = sim.drawn.iter().flat_map(|s| spellings(s)).collect();
    assert!(sim.drawn.len() >= 2, "both keys were drawn");
    secrets.extend(spellings(&bundle.ticket_seed.unwrap()));
    let tokens = format!("{}{}", sim::fleet::TOKEN, fleet.only().id);
    secrets.push(sim::fleet::TOKEN.into());
    secrets.push(STANDARD.encode(tokens).into_bytes());
    let mut outputs = sim.outputs.clone();
    outputs.extend(fleet.outputs());
    outputs.extend(sim.heard.borrow().iter().map(|(_, body)| sim::fleet::unwrapped(body)));
    assert!(outputs.len() > 40);
    let mut bytes = 0;
    for output in &outputs {
        bytes += output.len();
        for secret in &secrets {
            assert!(!contains(output.as_bytes(), secret), "a secret in {output}");
        }
    }
    // The search can find: the token is where it belongs.
    let config =
        sim.disk.read(Path::new("/etc/rancher/k3s/config.yaml.d/50-forge.yaml"), 1 << 20).unwrap().unwrap();
    assert!(contains(&config, sim::fleet::TOKEN.as_bytes()));
    let qr = outputs.iter().find(|o| o.contains("portal.example/e#fd-")).expect("the QR code is shown");
    assert!(!qr.contains('?'));
    println!(
        "threat 33: {} outputs of {bytes} bytes searched for {} spellings",
        outputs.len(),
        secrets.len()
    );
}

#[test]
fn threat_10_the_ticket_is_gone_from_a_joined_box() {
    let (fleet, sim) = one_box();
    let seed = fleet.keys.own_bundle("store-042", "S1").ticket_seed.unwrap();
    let needles = spellings(&seed);
    let found = |sim: &SimBox| {
        let disk = sim.disk.every_byte().into_iter().any(|b| needles.iter().any(|n| contains(b, n)));
        let carrier = sim.carriers.iter().any(|c| c.files.contains_key(bundle::TICKET));
        (disk, carrier)
    };
    let (sim, _) = run(sim, HOUR, |sim, _| sim.active);
    assert_eq!(found(&sim), (true, true), "kept until the fleet knows");
    let sim = join(sim);
    assert_eq!(found(&sim), (false, false));
    assert_joined_once(&fleet, &sim);
}
