//! Version numbers and their order (deb-version(7)), as `dpkg --compare-versions` has it.

use std::cmp::Ordering;

/// Compares two versions `[epoch:]upstream[-revision]`: epochs as numbers, then the upstream parts, then the revisions.
/// Any text has a place in the order, so that a malformed version in an archive cannot stop a build that does not use it.
pub fn compare(a: &str, b: &str) -> Ordering {
    let ((epoch_a, up_a, rev_a), (epoch_b, up_b, rev_b)) = (split(a), split(b));
    epoch_a.cmp(&epoch_b).then_with(|| part(up_a, up_b)).then_with(|| part(rev_a, rev_b))
}

/// Whether `version` may stand in a control file: it starts with a digit, and has no characters but those of
/// deb-version(7).
pub fn is_valid(version: &str) -> bool {
    let rest = match version.split_once(':') {
        Some((epoch, rest)) if epoch.parse::<u32>().is_ok_and(|e| e <= i32::MAX as u32) => rest,
        Some(_) => return false,
        None => version,
    };
    let good = |c: u8| c.is_ascii_alphanumeric() || b".+-~:".contains(&c);
    rest.starts_with(|c: char| c.is_ascii_digit()) && !rest.ends_with('-') && rest.bytes().all(good)
}

fn split(version: &str) -> (u64, &str, &str) {
    let (epoch, rest) = match version.split_once(':') {
        Some((epoch, rest)) => (epoch.parse().unwrap_or(0), rest),
        None => (0, version),
    };
    let (upstream, revision) = rest.rsplit_once('-').unwrap_or((rest, ""));
    (epoch, upstream, revision)
}

/// The order of a character outside of digits: `~` before the end, the end before letters, letters before the rest.
fn weight(c: Option<u8>) -> i32 {
    match c {
        Some(b'~') => -1,
        Some(c) if c.is_ascii_digit() => 0,
        None => 0,
        Some(c) if c.is_ascii_alphabetic() => i32::from(c),
        Some(c) => i32::from(c) + 256,
    }
}

/// dpkg's verrevcmp: stretches of non-digits by weight and of digits as numbers of any length, in turn.
fn part(a: &str, b: &str) -> Ordering {
    let (mut a, mut b) = (a.as_bytes(), b.as_bytes());
    let digit = |s: &[u8]| s.first().is_some_and(u8::is_ascii_digit);
    while !a.is_empty() || !b.is_empty() {
        while (!a.is_empty() && !digit(a)) || (!b.is_empty() && !digit(b)) {
            let order = weight(a.first().copied()).cmp(&weight(b.first().copied()));
            if order != Ordering::Equal {
                return order;
            }
            a = a.get(1..).unwrap_or_default();
            b = b.get(1..).unwrap_or_default();
        }
        let (number_a, number_b) = (number(&mut a), number(&mut b));
        let order = number_a.len().cmp(&number_b.len()).then_with(|| number_a.cmp(number_b));
        if order != Ordering::Equal {
            return order;
        }
    }
    Ordering::Equal
}

/// Takes the leading digits off `s`, and gives them without leading zeros.
fn number<'a>(s: &mut &'a [u8]) -> &'a [u8] {
    let end = s.iter().position(|c| !c.is_ascii_digit()).unwrap_or(s.len());
    let (digits, rest) = s.split_at(end);
    *s = rest;
    &digits[digits.iter().position(|c| *c != b'0').unwrap_or(digits.len())..]
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn dpkgs_order() {
        // Each is less than the next.
        let ladder = [
            "0~~",
            "0~",
            "0",
            "0a",
            "0+",
            "1.0~rc1-1",
            "1.0",
            "1.0-0.1",
            "1.0-1~bpo12+1",
            "1.0-1",
            "1.0-1+b1",
            "1.0-1.1",
            "1.0+dfsg-1",
            "1.2",
            "1.10",
            "99999999999999999999999",
            "1:0",
        ];
        for (i, a) in ladder.iter().enumerate() {
            for (j, b) in ladder.iter().enumerate() {
                assert_eq!(compare(a, b), i.cmp(&j), "{a} {b}");
            }
        }
        assert_eq!(compare("1.0", "1.00"), Ordering::Equal);
        assert_eq!(compare("0:1", "1"), Ordering::Equal);
        assert_eq!(compare("1-0", "1"), Ordering::Equal);
    }

    #[test]
    fn what_may_stand_in_a_control_file() {
        for good in ["1", "1:2.3-4", "2025.1~rc1+b2", "0.1-2-3"] {
            assert!(is_valid(good), "{good}");
        }
        for bad in ["", "a1", "1:", "x:1", "1 2", "1-", "1/2", "99999999999:1", "1é"] {
            assert!(!is_valid(bad), "{bad}");
        }
    }
}
