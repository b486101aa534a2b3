//! Gigabytes of images and of a model on a box with Podman: in the release once, on the disk once, and nothing of them is
//! copied or imported at any start.

use super::{START, change, telling, told};
use crate::boots;
use crate::fixture::{self, Fixture, ok};
use crate::vm::{Opts, Vm};
use forge::model::{Bytes, Digest};
use std::fs::File;
use std::io::Read as _;
use std::os::unix::fs::MetadataExt as _;
use std::path::{Path, PathBuf};
use std::time::Instant;

/// Of the model, and again of the files that two images share, in bytes that no compression makes fewer.
const EACH: u64 = 1 << 30;
/// As many files as a profile's may be large.
const FILES: u64 = 16;
/// Room for two slots.
const DISK: u64 = 24 << 30;

/// A second image of the same packages, with the same files.
const IMAGES: &str = r#"
[[container]]
name = "shelf-review:1"
packages = ["busybox-static"]
FILES
command = ["busybox", "sleep", "1000000"]

[[workload]]
name = "shelf-review"
required = true
manifests = ["workloads/shelf-review.yaml"]
"#;
const REVIEW: &str = "apiVersion: v1\nkind: Pod\nmetadata: { name: shelf-review }\nspec:\n  containers:\n    \
                      - { name: review, image: \"localhost/shelf-review:1\", imagePullPolicy: Never }\n";
/// What both containers and the host read, and how much of the state partition and of containers' own store is used.
const TELL: &str = r#"
echo "model $(podman exec shelf-vision-vision busybox sha256sum </dev/null /models/shelf/model | cut -d ' ' -f 1)"
for pod in shelf-vision-vision shelf-review-review; do
    echo "frames $(podman exec $pod busybox sh -c 'busybox cat /srv/frames/*' </dev/null | sha256sum | cut -d ' ' -f 1)"
done
echo "containers $(du -smx /var/lib/containers | cut -f 1) MiB"
echo "state $(df --output=used -B 1M /var | tail -n 1 | tr -d ' ') MiB"
"#;

#[test]
#[ignore = "hack/e2e size"]
fn gigabytes_of_images_and_a_model_are_there_once_and_never_imported() {
    let shared = fixture::shared().expect("a network to build from");
    let dir = shared.scratch();
    let start = Instant::now();
    let (release, model, frames) = build(shared, dir.path());
    let image = release.join("amd64/disk.raw.zst");
    println!("built after {:.0?}: {}", start.elapsed(), Bytes(image.metadata().unwrap().len()));
    let (_, opts) = boots::given().unwrap();
    let opts = Opts { ports: vec![], cut_off: true, ..opts };
    let own = dir.path().join("device.raw");
    forge::run::disk::unpack(&image, &own, DISK).unwrap();
    // What of the sparse file is not a hole.
    let written = own.metadata().unwrap().blocks() * 512;
    println!("on the disk: {}", Bytes(written));
    assert!(written < 2 * EACH + (3 << 28), "something is on the disk twice");

    let mut vm = Vm::boot(&own, &opts);
    for start in ["first", "second"] {
        let took = vm.wait_for("boot complete", START);
        println!("{start} start: good after {took:.0?}");
        let all = told(&mut vm, START);
        let lines = &all[all.len() - 6..];
        println!("{}", lines.join("\n"));
        assert_eq!(lines[0], format!("model {}", model.hex()));
        assert!(lines[1..3].iter().all(|line| *line == format!("frames {}", frames.hex())), "{lines:?}");
        let used = |what: &str| -> u64 {
            let line = lines.iter().find_map(|line| line.strip_prefix(what)).unwrap();
            line.split_whitespace().next().unwrap().parse().unwrap()
        };
        assert!(used("containers ") < 64 && used("state ") < 256, "copied at the {start} start: {lines:?}");
        if start == "first" {
            vm.reboot();
        }
    }
}

/// The worked profile with that much in it; the release, and the digests of model and frames.
fn build(shared: &Fixture, dir: &Path) -> (PathBuf, Digest, Digest) {
    let profile = shared.source_in(dir).with_file_name("media-models.toml");
    let listed: String = (10..10 + FILES)
        .map(|n| format!("{{path=\"/srv/frames/{n}\",source=\"media/frames-{n}\"}},"))
        .collect();
    let files = format!("files = [{listed}]");
    let carried = "command = [\"/usr/bin/busybox\"";
    let images = IMAGES.replace("FILES", &files) + &telling(Some("podman.service"), TELL);
    change(&profile, &[(carried, &format!("{files}\n{carried}"))], &images);
    std::fs::write(profile.with_file_name("workloads").join("shelf-review.yaml"), REVIEW).unwrap();
    let media = profile.with_file_name("media");
    let model = random(&[media.join("shelf/model")], EACH);
    let frames: Vec<_> = (10..10 + FILES).map(|n| media.join(format!("frames-{n}"))).collect();
    let frames = random(&frames, EACH / FILES);
    // What is made of it is of no use to anybody else.
    let mut build = fixture::forge(&shared.warm_cache_in(dir));
    build.args(["--json", "build", "--artifact", "disk"]).arg(&profile);
    let told = ok(build.arg("--out").arg(dir.join("dist")));
    let release = fixture::events(&told, "release")[0]["dir"].as_str().unwrap().into();
    (release, model, frames)
}

/// Makes files of `length` bytes; the digest of all of them, one after the other.
fn random(paths: &[PathBuf], length: u64) -> Digest {
    let all: Vec<File> = paths
        .iter()
        .map(|path| {
            let random = File::open("/dev/urandom").unwrap();
            std::io::copy(&mut random.take(length), &mut File::create(path).unwrap()).unwrap();
            File::open(path).unwrap()
        })
        .collect();
    let empty: Box<dyn std::io::Read> = Box::new(std::io::empty());
    Digest::of_reader(all.into_iter().fold(empty, |whole, file| Box::new(whole.chain(file)))).unwrap().0
}
