//! A place with upstream's layout that serves well, badly, or not at all.

use super::*;
use crate::host::http::tests::{Seen, Server, assert_fails, body, impatient, reply, serve};
use std::net::TcpStream;

const VERSION: &str = "v1.34.2+k3s1";
const DIR: &str = "/releases/v1.34.2%2Bk3s1/";

fn wanted() -> Wanted {
    let (product, arch) = (Product::K3s, Arch::Amd64);
    let files = vec![product.program(VERSION, arch), product.images(arch).unwrap()];
    Wanted { product, version: VERSION.into(), arch, files }
}

fn sums(files: &[(&str, &[u8])]) -> Vec<u8> {
    files
        .iter()
        .map(|(name, bytes)| format!("{}  {name}\n", Digest::of(bytes).hex()))
        .collect::<String>()
        .into()
}

/// A place that serves the release, but for what `odd` answers (and says so).
fn place(odd: impl Fn(&mut TcpStream, &Seen, &str) -> bool + Send + Sync + 'static) -> (Server, Place) {
    let server = Server::new(move |stream, seen, _| {
        let Some(file) = seen.path.strip_prefix(DIR).map(str::to_string) else {
            return reply(stream, "404 Not Found", "", 0, b"");
        };
        if odd(stream, seen, &file) {
            return;
        }
        match file.as_str() {
            "k3s" => serve(stream, seen, &body()),
            "k3s-airgap-images-amd64.tar.zst" => serve(stream, seen, b"images"),
            "sha256sum-amd64.txt" => {
                let sums = sums(&[("k3s", &body()), ("k3s-airgap-images-amd64.tar.zst", b"images")]);
                serve(stream, seen, &sums);
            }
            _ => reply(stream, "404 Not Found", "", 0, b""),
        }
    });
    let place = Place::Url(server.url().replace("/blob", "/releases"));
    (server, place)
}

fn pinned(place: &Place) -> (anyhow::Result<Vec<PinnedFile>>, tempfile::TempDir) {
    let dir = tempfile::tempdir().unwrap();
    let blobs = Blobs::open(dir.path()).unwrap();
    (pin(&wanted(), place, &impatient(), &blobs, &Cancel::default()), dir)
}

#[test]
fn right_sums_are_pinned_with_sizes_and_fetched_again_by_digest() {
    let (server, place) = place(|_, _, _| false);
    let (files, dir) = pinned(&place);
    let files = files.unwrap();
    assert_eq!(files[0].digest, Digest::of(body()));
    assert_eq!((files[0].size, files[1].size), (Bytes(body().len() as u64), Bytes(6)));
    let (blobs, cancel) = (Blobs::open(dir.path()).unwrap(), Cancel::default());
    assert!(blobs.get(files[1].digest).unwrap().is_some(), "what was pinned is kept");
    let cold = tempfile::tempdir().unwrap();
    let blobs = Blobs::open(cold.path()).unwrap();
    fetch(&files[0], &place, &impatient(), &blobs, &|_| {}, &cancel).unwrap();
    let asked = server.seen().len();
    fetch(&files[0], &place, &Client::offline(), &blobs, &|_| {}, &cancel).unwrap();
    assert_eq!(server.seen().len(), asked, "a file that is here is not fetched");
}

#[test]
fn a_place_that_is_the_versions_own_directory_will_do_and_so_will_a_directory() {
    for place in ["https://mirror.example/k3s", "https://mirror.example/k3s/v1.34.2+k3s1/"] {
        let expected = "https://mirror.example/k3s/v1.34.2%2Bk3s1/k3s";
        assert_eq!(url(place, VERSION, "k3s"), expected, "{place}");
    }
    let dir = tempfile::tempdir().unwrap();
    let release = dir.path().join(VERSION);
    std::fs::create_dir(&release).unwrap();
    std::fs::write(release.join("k3s"), "program").unwrap();
    std::fs::write(release.join("k3s-airgap-images-amd64.tar.zst"), "images").unwrap();
    let text = sums(&[("k3s", b"program"), ("k3s-airgap-images-amd64.tar.zst", b"images")]);
    std::fs::write(release.join("sha256sum-amd64.txt"), text).unwrap();
    let (files, _cache) = pinned(&Place::Url(format!("file://{}", dir.path().display())));
    assert_eq!(files.unwrap()[0].digest, Digest::of("program"));
}

#[test]
fn other_bytes_than_the_sums_say_are_refused_with_both_digests() {
    let (_server, place) = place(|stream, seen, file| {
        let ours = file == "k3s";
        if ours {
            serve(stream, seen, b"another program");
        }
        ours
    });
    let (result, _cache) = pinned(&place);
    let (right, wrong) = (Digest::of(body()).to_string(), Digest::of("another program").to_string());
    assert_fails(result.map(drop), Kind::Verify, &["k3s", &right, &wrong]);
}

#[test]
fn a_file_that_changed_since_it_was_pinned_is_refused() {
    let (_server, place) = place(|_, _, _| false);
    let (files, _cache) = pinned(&place);
    let mut file = files.unwrap().remove(1);
    file.digest = Digest::of("pinned");
    let cold = tempfile::tempdir().unwrap();
    let blobs = Blobs::open(cold.path()).unwrap();
    let result = fetch(&file, &place, &impatient(), &blobs, &|_| {}, &Cancel::default());
    assert_fails(result, Kind::Verify, &["k3s-airgap-images-amd64.tar.zst of k3s v1.34.2+k3s1 for amd64"]);
}

#[test]
fn sums_that_lack_a_file_or_are_none_are_refused() {
    for (text, said) in [
        (&b""[..], "it has no sum of k3s"),
        (b"<html>sign in</html>\n", "line 1 is no sum of a file"),
        (b"abcd  k3s\n", "line 1 is no sum of a file"),
        (b"\xff\xfe", "it is no text"),
    ] {
        let (_server, place) = place(move |stream, seen, file| {
            let ours = file == "sha256sum-amd64.txt";
            if ours {
                serve(stream, seen, text);
            }
            ours
        });
        let (result, _cache) = pinned(&place);
        assert_fails(result.map(drop), Kind::Verify, &["sha256sum-amd64.txt", said]);
    }
    let two = format!("{}  k3s\n{}  k3s\n", Digest::of("a").hex(), Digest::of("b").hex());
    assert!(Sums::parse(two.as_bytes()).unwrap().get("k3s").unwrap_err().to_string().contains("two sums"));
}

#[test]
fn a_missing_version_and_a_missing_file_are_named() {
    let (server, _) = place(|_, _, _| false);
    let (result, _cache) = pinned(&Place::Url(server.url()));
    assert_fails(result.map(drop), Kind::Fetch, &["sha256sum-amd64.txt", "404"]);
    let (_server, place) = place(|stream, _, file| {
        let ours = file == "k3s";
        if ours {
            reply(stream, "404 Not Found", "", 0, b"");
        }
        ours
    });
    let (result, _cache) = pinned(&place);
    assert_fails(result.map(drop), Kind::Fetch, &["/v1.34.2%2Bk3s1/k3s", "404"]);
}

#[test]
fn a_redirect_is_followed_as_upstreams_place_has_it() {
    let (_server, place) = place(|stream, seen, file| {
        let ours = file == "k3s" && !seen.path.contains("?");
        if ours {
            let to = format!("Location: {}?signed=1\r\n", seen.path);
            reply(stream, "302 Found", &to, 0, b"");
        } else if file == "k3s?signed=1" {
            serve(stream, seen, &body());
            return true;
        }
        ours
    });
    assert_eq!(pinned(&place).0.unwrap()[0].digest, Digest::of(body()));
}

#[test]
fn redirects_in_a_circle_are_left_and_named() {
    let (_server, place) = place(|stream, seen, file| {
        let ours = file == "k3s";
        if ours {
            reply(stream, "302 Found", &format!("Location: {}\r\n", seen.path), 0, b"");
        }
        ours
    });
    let (result, _cache) = pinned(&place);
    assert_fails(result.map(drop), Kind::Fetch, &["/k3s", "redirect"]);
}

#[test]
fn a_transfer_that_is_cut_each_time_is_refused_and_nothing_of_it_is_taken() {
    let (_server, place) = place(|stream, _, file| {
        let cut = file == "k3s";
        if cut {
            reply(stream, "200 OK", "", 1 << 20, b"the same beginning, over and over");
        }
        cut
    });
    let (result, cache) = pinned(&place);
    assert_fails(result.map(drop), Kind::Fetch, &["/k3s"]);
    let blobs = Blobs::open(cache.path()).unwrap();
    assert!(blobs.get(Digest::of(body())).unwrap().is_none());
}

#[test]
fn a_cut_transfer_goes_on_where_it_was_cut() {
    let (server, place) = place(|stream, seen, file| {
        let cut = file == "k3s" && seen.from.is_none();
        if cut {
            let all = body();
            reply(stream, "200 OK", "", all.len(), &all[..70_000]);
        }
        cut
    });
    assert_eq!(pinned(&place).0.unwrap()[0].digest, Digest::of(body()));
    assert!(
        server.seen().iter().any(|s| s.path.ends_with("/k3s") && s.from == Some(70_000)),
        "{:?}",
        server.seen()
    );
}

#[test]
fn a_server_that_trickles_is_left_and_named() {
    let (_server, place) = place(|stream, _, file| {
        use std::io::Write as _;
        let slow = file == "k3s";
        if slow {
            let _ = stream.write_all(b"HTTP/1.1 200 OK\r\nContent-Length: 100000\r\n\r\n");
            for _ in 0..100 {
                std::thread::sleep(std::time::Duration::from_millis(30));
                if stream.write_all(b"x").is_err() {
                    break;
                }
            }
        }
        slow
    });
    let (result, _cache) = pinned(&place);
    assert_fails(result.map(drop), Kind::Fetch, &["/k3s"]);
}

#[test]
fn a_file_with_a_sha512_sum_beside_it_is_held_against_that() {
    use sha2::{Digest as _, Sha512};
    let dir = tempfile::tempdir().unwrap();
    let release = dir.path().join("v1.22.1");
    std::fs::create_dir(&release).unwrap();
    let (product, arch, version) = (Product::Kubeedge, Arch::Arm64, "v1.22.1");
    let file = product.program(version, arch);
    assert_eq!(file, "kubeedge-v1.22.1-linux-arm64.tar.gz");
    let sums = release.join("checksum_kubeedge-v1.22.1-linux-arm64.tar.gz.txt");
    let wanted = Wanted { product, version: version.into(), arch, files: vec![file.clone()] };
    let place = Place::Url(format!("file://{}", dir.path().display()));
    let cache = tempfile::tempdir().unwrap();
    let blobs = Blobs::open(cache.path()).unwrap();
    let pinned = || pin(&wanted, &place, &impatient(), &blobs, &Cancel::default());
    std::fs::write(release.join(&file), "archive").unwrap();
    let right = hex(&Sha512::digest("archive"));
    for (text, said) in [
        (hex(&Sha512::digest("another")), &right[..]),
        (Digest::of("archive").hex(), "no SHA-512 sum"),
        (String::new(), "no SHA-512 sum"),
    ] {
        std::fs::write(&sums, text).unwrap();
        assert_fails(pinned().map(drop), Kind::Verify, &[&file, said]);
        assert!(blobs.get(Digest::of("archive")).unwrap().is_none());
    }
    std::fs::write(&sums, format!("{right}\n")).unwrap();
    assert_eq!(pinned().unwrap()[0].digest, Digest::of("archive"));
    assert!(blobs.get(Digest::of("archive")).unwrap().is_some());
    std::fs::remove_file(&sums).unwrap();
    assert_fails(pinned().map(drop), Kind::Fetch, &["checksum_kubeedge"]);
}
