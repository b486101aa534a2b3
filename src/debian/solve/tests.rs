use super::*;
use crate::debian::packages::{Listing, Pin};
use crate::model::{Arch, Digest};

/// An index from `name version: field value; …` lines.
fn index(lines: &[&str]) -> Index {
    suites(&[("stable", Pin::Automatic, lines)])
}

fn suites(all: &[(&str, Pin, &[&str])]) -> Index {
    let text = |lines: &[&str]| -> String {
        let paragraph = |line: &&str| {
            let (head, fields) = line.split_once(": ").unwrap_or((line, ""));
            let (name, version) = head.split_once(' ').unwrap();
            let fields = fields.replace("; ", "\n");
            format!(
                "Package: {name}\nVersion: {version}\nArchitecture: all\nFilename: pool/{name}.deb\nSize: 1\n\
                 SHA256: {}\n{fields}\n\n",
                Digest::of("").hex()
            )
        };
        lines.iter().map(paragraph).collect()
    };
    let listing = |origin, suite: &str, pin| Listing { origin, suites: vec![suite.into()], pin };
    let files = all.iter().enumerate().map(|(i, (suite, pin, lines))| (listing(i, suite, *pin), text(lines)));
    Index::build(Arch::Amd64, files).unwrap()
}

fn request(words: &str) -> Request {
    let (exclude, packages): (Vec<&str>, Vec<&str>) = words.split(' ').partition(|w| w.starts_with('-'));
    Request {
        packages: packages.iter().map(|p| p.parse().unwrap()).collect(),
        exclude: exclude.iter().map(|e| e[1..].to_string()).collect(),
        ..Request::default()
    }
}

fn solved(index: &Index, request: &Request) -> String {
    match solve(index, request) {
        Ok(s) => s.packages.iter().map(|p| format!("{}={}", p.name, p.version)).collect::<Vec<_>>().join(" "),
        Err(e) => e.to_string(),
    }
}

#[test]
fn chooses_as_apt_does() {
    let archive = index(&[
        "a 1: Depends: b | c, v",
        "b 1: Conflicts: d",
        "c 1",
        "d 1",
        "p1 1: Provides: v; Priority: optional",
        "p2 1: Provides: v; Priority: standard",
        "w 1: Depends: v (>= 2)",
        "p3 1: Provides: v (= 3)",
        "x 2: Depends: y:any",
        "x 1",
        "y 1",
        "z 1: Depends: m:any",
        "m 1: Multi-Arch: allowed",
        "r 1: Recommends: c, absent | d, gone",
        "loop1 1: Depends: loop2 (= 1)",
        "loop2 1: Pre-Depends: loop1",
        "self 1: Provides: mta; Conflicts: mta",
        "mail 1: Depends: self | other, mta",
        "other 1: Provides: mta; Conflicts: mta",
    ]);
    for (asked, expected) in [
        ("a", "a=1 b=1 p2=1"),
        ("a c", "a=1 c=1 p2=1"),
        ("a p1", "a=1 b=1 p1=1"),
        ("a d", "a=1 c=1 d=1 p2=1"),
        ("d a", "a=1 c=1 d=1 p2=1"),
        ("a -b", "a=1 c=1 p2=1"),
        ("w", "p3=1 w=1"),
        ("x=1", "x=1"),
        ("z", "m=1 z=1"),
        ("loop1", "loop1=1 loop2=1"),
        ("mail", "mail=1 self=1"),
        ("r", "r=1"),
    ] {
        assert_eq!(solved(&archive, &request(asked)), expected, "{asked}");
    }
    let with_recommends = Request { recommends: true, ..request("r") };
    assert_eq!(solved(&archive, &with_recommends), "c=1 d=1 r=1");
}

#[test]
fn goes_back_to_the_choice_that_led_to_a_conflict() {
    // The walk takes l1, l2 and l3, and meets the conflict with l1 only at the end.
    let archive = index(&[
        "top 1: Depends: l1 | r1, l2 | r2, l3 | r3, end",
        "l1 1",
        "r1 1",
        "l2 1",
        "r2 1",
        "l3 1",
        "r3 1",
        "end 1: Depends: deep",
        "deep 1: Breaks: l1 (<= 1)",
    ]);
    assert_eq!(solved(&archive, &request("top")), "deep=1 end=1 l2=1 l3=1 r1=1 top=1");
}

#[test]
fn a_demand_that_cannot_be_met_tells_the_chain() {
    let archive = index(&[
        "nginx 1: Depends: nginx-common (= 1)",
        "nginx-common 1: Depends: libfoo (>= 2)",
        "libfoo 1.8",
        "one 1: Depends: left",
        "two 1: Depends: right | rite",
        "left 1: Conflicts: side",
        "right 1: Provides: side",
        "rite 1: Provides: side",
        "typo 1: Depends: libfou",
        "v1 1: Provides: v",
        "v2 1: Provides: v",
        "want-m 1: Depends: libfoo:any",
    ]);
    for (asked, expected) in [
        (
            "nginx",
            "nginx (you asked) → nginx-common (= 1) → nothing provides libfoo (>= 2); nearest: libfoo 1.8",
        ),
        ("ngins", "no package `ngins` in the archive; did you mean nginx?"),
        ("typo", "typo (you asked) → nothing provides libfou; did you mean libfoo?"),
        ("libfoo=2", "no version of libfoo=2 in the archive; it has 1.8 (stable)"),
        ("libfoo/sid", "no version of libfoo/sid in the archive; it has 1.8 (stable)"),
        ("v", "`v` is a virtual package; ask for one that provides it: v1, v2"),
        (
            "one two",
            "two (you asked) → right | rite [right] cannot be installed with one (you asked) → left: \
             left 1 conflicts with or breaks side",
        ),
        ("nginx -nginx-common", "nginx (you asked) → nginx-common, which is excluded"),
        ("want-m", "want-m (you asked) → nothing provides libfoo:any; nearest: libfoo 1.8"),
    ] {
        assert_eq!(solved(&archive, &request(asked)), expected, "{asked}");
    }
}

#[test]
fn suites_are_pinned_as_apt_pins_them() {
    let archive = suites(&[
        ("trixie", Pin::Automatic, &["a 1: Depends: b", "b 1"]),
        ("trixie-security", Pin::Automatic, &["b 1.1"]),
        ("trixie-backports", Pin::OnRequest, &["a 2: Depends: b (>= 2)", "b 2", "new 1"]),
    ]);
    assert_eq!(solved(&archive, &request("a")), "a=1 b=1.1");
    assert_eq!(solved(&archive, &request("a/trixie-backports")), "a=2 b=2");
    assert_eq!(solved(&archive, &request("new")), "new=1");
}

#[test]
fn the_minimal_system_comes_first() {
    let archive = index(&[
        "base 1: Essential: yes; Depends: mawk | gawk",
        "mawk 1",
        "gawk 1",
        "apt 1: Depends: lib",
        "lib 1",
    ]);
    let request = Request { base: Base::Apt, ..request("gawk") };
    assert_eq!(solved(&archive, &request), "apt=1 base=1 gawk=1 lib=1 mawk=1");
    let because = solve(&archive, &request).unwrap().because;
    assert_eq!(because["mawk"].to_string(), "base (part of every system) → mawk | gawk [mawk]");
}
