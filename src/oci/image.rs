//! Layers and settings to an image's documents: config, manifest, and the index over architectures. Pure.
//!
//! Every time in them is the build's epoch; labels and annotations are sorted. image-spec v1.1: config.md, manifest.md,
//! image-index.md, annotations.md.

use super::layer::{DiffId, Layer};
use super::{Annotations, Descriptor, INDEX, MANIFEST, describe, json};
use crate::model::{Arch, Epoch};
use oci_spec::image::{
    Arch as GoArch, ConfigBuilder, HistoryBuilder, ImageConfiguration, ImageConfigurationBuilder,
    ImageIndexBuilder, ImageManifestBuilder, MediaType, Os, PlatformBuilder, RootFsBuilder,
};

/// Media type of an image's config.
pub const CONFIG: &str = "application/vnd.oci.image.config.v1+json";

/// How a container of the image is started. Empty means: not said.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Run {
    /// `USER[:GROUP]`, names or numbers.
    pub user: String,
    /// The program and its first arguments, which a user's arguments do not replace.
    pub entrypoint: Vec<String>,
    /// The arguments, which a user's replace.
    pub command: Vec<String>,
    /// `NAME=VALUE` each.
    pub env: Vec<String>,
    /// `PORT/tcp` or `PORT/udp` each.
    pub ports: Vec<String>,
    /// The directory in which it starts.
    pub working_dir: String,
    /// The signal that asks it to stop.
    pub stop_signal: String,
}

/// What an image of one architecture is made of.
#[derive(Clone, Debug)]
pub struct Spec {
    /// The architecture.
    pub arch: Arch,
    /// The one time in it.
    pub epoch: Epoch,
    /// Layers from the lowest up, each with the line that `podman history` shows for it.
    pub layers: Vec<(Layer, String)>,
    /// How it is started.
    pub run: Run,
    /// Labels of the config; also given to the manifest as annotations.
    pub labels: Annotations,
}

/// A document and its descriptor.
#[derive(Clone, Debug, PartialEq)]
pub struct Document {
    /// Media type, digest, size; platform and annotations where an index has them.
    pub descriptor: Descriptor,
    /// The canonical bytes.
    pub bytes: Vec<u8>,
}

/// An image of one architecture: its two documents. The layers' blobs are elsewhere.
#[derive(Clone, Debug, PartialEq)]
pub struct Image {
    /// The config.
    pub config: Document,
    /// The manifest; its descriptor has the platform.
    pub manifest: Document,
}

/// Writes config and manifest.
///
/// # Errors
/// When a document cannot be built; a spec made of valid values always can.
pub fn compose(spec: &Spec) -> anyhow::Result<Image> {
    let created = spec.epoch.rfc3339();
    let mut config = ConfigBuilder::default();
    let run = &spec.run;
    let said = |s: &String| (!s.is_empty()).then(|| s.clone());
    let listed = |l: &Vec<String>| (!l.is_empty()).then(|| l.clone());
    if let Some(v) = said(&run.user) {
        config = config.user(v);
    }
    if let Some(v) = said(&run.working_dir) {
        config = config.working_dir(v);
    }
    if let Some(v) = said(&run.stop_signal) {
        config = config.stop_signal(v);
    }
    if let Some(v) = listed(&run.entrypoint) {
        config = config.entrypoint(v);
    }
    if let Some(v) = listed(&run.command) {
        config = config.cmd(v);
    }
    if let Some(v) = listed(&run.env) {
        config = config.env(v);
    }
    if let Some(v) = listed(&run.ports) {
        config = config.exposed_ports(v);
    }
    if !spec.labels.is_empty() {
        config = config.labels(spec.labels.clone().into_iter().collect::<std::collections::HashMap<_, _>>());
    }
    let history = spec
        .layers
        .iter()
        .map(|(_, line)| HistoryBuilder::default().created(&created).created_by(line).build());
    let diff_ids: Vec<String> = spec.layers.iter().map(|(l, _)| l.diff_id.to_string()).collect();
    let configuration: ImageConfiguration = ImageConfigurationBuilder::default()
        .created(&created)
        .architecture(GoArch::from(spec.arch.oci()))
        .os(Os::Linux)
        .config(config.build()?)
        .rootfs(RootFsBuilder::default().typ("layers").diff_ids(diff_ids).build()?)
        .history(history.collect::<Result<Vec<_>, _>>()?)
        .build()?;
    let config = document(CONFIG, &configuration)?;
    let manifest = ImageManifestBuilder::default()
        .schema_version(2u32)
        .media_type(MediaType::ImageManifest)
        .config(config.descriptor.clone())
        .layers(spec.layers.iter().map(|(l, _)| l.descriptor.clone()).collect::<Vec<_>>())
        .annotations(with_created(&spec.labels, spec.epoch))
        .build()?;
    let mut manifest = document(MANIFEST, &manifest)?;
    let platform = PlatformBuilder::default().architecture(GoArch::from(spec.arch.oci())).os(Os::Linux);
    // Docker and podman tell arm64 apart by its variant.
    let platform = if spec.arch == Arch::Arm64 { platform.variant("v8") } else { platform };
    manifest.descriptor.set_platform(Some(platform.build()?));
    Ok(Image { config, manifest })
}

/// The index over `images`, in the order given.
///
/// # Errors
/// When the document cannot be built; descriptors that [`compose`] made always can.
pub fn index(images: &[Image], epoch: Epoch, annotations: &Annotations) -> anyhow::Result<Document> {
    let index = ImageIndexBuilder::default()
        .schema_version(2u32)
        .media_type(MediaType::ImageIndex)
        .manifests(images.iter().map(|i| i.manifest.descriptor.clone()).collect::<Vec<_>>())
        .annotations(with_created(annotations, epoch))
        .build()?;
    document(INDEX, &index)
}

/// The diff_ids of a config, in order.
///
/// # Errors
/// When one is no SHA-256 digest.
pub fn diff_ids(config: &ImageConfiguration) -> Result<Vec<DiffId>, crate::model::digest::BadDigest> {
    config.rootfs().diff_ids().iter().map(|s| s.parse().map(DiffId)).collect()
}

pub(super) fn document(media_type: &str, value: &impl serde::Serialize) -> anyhow::Result<Document> {
    let bytes = json::canonical(value)?;
    Ok(Document { descriptor: describe(media_type, &bytes), bytes })
}

fn with_created(annotations: &Annotations, epoch: Epoch) -> std::collections::HashMap<String, String> {
    let mut all: std::collections::HashMap<_, _> = annotations.clone().into_iter().collect();
    all.insert("org.opencontainers.image.created".into(), epoch.rfc3339());
    all
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::model::Digest;
    use crate::oci::layer::Codec;

    fn layer(name: &str) -> (Layer, String) {
        let descriptor = describe(Codec::Zstd.media_type(), name.as_bytes());
        (
            Layer { descriptor, diff_id: DiffId(Digest::of(format!("{name} tar"))) },
            format!("forge layer {name}"),
        )
    }

    fn spec(arch: Arch) -> Spec {
        Spec {
            arch,
            epoch: Epoch(1_795_219_200),
            layers: vec![layer("os"), layer("workload")],
            run: Run {
                command: vec!["nginx".into(), "-g".into(), "daemon off;".into()],
                user: "www-data".into(),
                ports: vec!["80/tcp".into()],
                ..Run::default()
            },
            labels: ('a'..='m').map(|c| (format!("org.example.{c}"), c.to_string())).collect(),
        }
    }

    #[test]
    fn golden_documents() {
        let image = compose(&spec(Arch::Amd64)).unwrap();
        let index =
            index(&[image.clone(), compose(&spec(Arch::Arm64)).unwrap()], Epoch(0), &Annotations::new())
                .unwrap();
        let text = |d: &Document| String::from_utf8(d.bytes.clone()).unwrap();
        let all = [text(&image.config), text(&image.manifest), text(&index)].join("\n") + "\n";
        snapbox::assert_data_eq!(all, snapbox::file!["image/golden.json"].raw());
    }

    #[test]
    fn the_same_spec_is_the_same_bytes() {
        let first = compose(&spec(Arch::Arm64)).unwrap();
        for _ in 0..20 {
            assert_eq!(compose(&spec(Arch::Arm64)).unwrap(), first);
        }
    }
}
