//! Charts rendered by Helm itself when they are locked: the real program, from a place of upstream's layout.

use crate::fixture::{self, forge, ok, refused};
use crate::kubernetes::{serve, stand_in};
use crate::support::tool;
use forge::model::{Arch, Digest};
use forge::source::release::Product;
use std::path::{Path, PathBuf};
use std::process::Command;

const VERSION: &str = "v3.17.3";

/// Helm's release as upstream lays it out; what is for another machine is for none.
fn place(dir: &Path, helm: &Path) {
    for arch in Arch::ALL {
        let within = dir.join(format!("linux-{arch}"));
        std::fs::create_dir_all(&within).unwrap();
        match Arch::host() == Some(arch) {
            true => drop(std::fs::copy(helm, within.join("helm")).unwrap()),
            false => std::fs::write(within.join("helm"), "of another machine").unwrap(),
        }
        let file = Product::Helm.program(VERSION, arch);
        let mut tar = Command::new("tar");
        tar.args(["--create", "--gzip", "--file"]).arg(dir.join(&file)).arg("--directory").arg(dir);
        ok(tar.arg(format!("linux-{arch}")));
        let sum = Digest::of(std::fs::read(dir.join(&file)).unwrap()).hex();
        std::fs::write(dir.join(format!("{file}.sha256sum")), format!("{sum}  {file}\n")).unwrap();
    }
}

/// A profile with one chart, whose templates say what no reading of values would find.
fn profile(dir: &Path, helm: &str, k3s: &str) -> PathBuf {
    let write = |path: &str, text: &str| {
        let path = dir.join(path);
        std::fs::create_dir_all(path.parent().unwrap()).unwrap();
        std::fs::write(path, text).unwrap();
    };
    write("broker/Chart.yaml", "apiVersion: v2\nname: broker\nversion: 1.2.3\nappVersion: \"5\"\n");
    write("broker/values.yaml", "edition: slim\nbridge: {enabled: false, image: unused.example/bridge:9}\n");
    write(
        "broker/templates/broker.yaml",
        "apiVersion: apps/v1\nkind: Deployment\nmetadata: {name: {{ .Release.Name }}}\nspec:\n  template:\n    spec:\n      containers:\n      \
         - {name: b, image: \"localhost/{{ .Chart.Name }}-{{ .Values.edition }}:{{ .Chart.AppVersion }}\"}\n",
    );
    write(
        "broker/templates/bridge.yaml",
        "{{- if .Values.bridge.enabled }}\napiVersion: v1\nkind: Pod\nmetadata: {name: bridge}\nspec: {containers: [{name: c, image: {{ .Values.bridge.image }}}]}\n{{- end }}\n",
    );
    write(
        "broker/templates/tests/ping.yaml",
        "apiVersion: v1\nkind: Pod\nmetadata: {name: ping, annotations: {helm.sh/hook: test}}\nspec: {containers: [{name: c, image: test.example/ping:1}]}\n",
    );
    write(
        "broker/templates/cluster.yaml",
        "apiVersion: x.example/v1\nkind: Cluster\nmetadata: {name: c, namespace: {{ .Release.Namespace }}}\nspec: {version: {{ .Capabilities.KubeVersion }}, image: localhost/node:1}\n",
    );
    write("values.yaml", "edition: full\n");
    let containers: String = ["broker-full:5", "node:1"]
        .map(|name| format!("[[container]]\nname = \"{name}\"\npackages = [\"busybox-static\"]\ncommand = [\"/usr/bin/busybox\", \"true\"]\n"))
        .concat();
    write(
        "site.toml",
        &format!(
            "schema = 1\n[site]\nname = \"rendered\"\n[image]\nartifacts = [\"oci\"]\n[os]\nbase = \"debian:trixie\"\n[kubernetes]\n\
             distribution = \"k3s\"\nversion = \"v1.34.2+k3s1\"\nsource = \"{k3s}\"\n[sign]\nkey = \"file:release.key\"\n[helm]\nversion = \"{VERSION}\"\nsource = \"{helm}\"\n\
             {containers}[[workload]]\nname = \"queue\"\nhelm = {{ chart = \"file:broker\", values = \"values.yaml\", namespace = \"mqtt\" }}\n\
             image-paths = [{{ kind = \"Cluster\", path = \"spec.image\" }}]\n"
        ),
    );
    dir.join("site.toml")
}

#[test]
fn a_chart_is_rendered_by_a_locked_helm() {
    let Some(shared) = fixture::shared() else { return };
    let Some(helm) = tool("helm") else { return };
    let scratch = shared.scratch();
    let dir = scratch.path();
    let (upstream, release) = (dir.join("helm"), dir.join("k3s"));
    place(&upstream, &helm);
    std::fs::create_dir(&release).unwrap();
    stand_in(&release, Product::K3s, "v1.34.2+k3s1", Arch::Amd64, b"#!/bin/sh\n");
    let site = profile(&dir.join("site"), &serve(&upstream), &serve(&release));
    let cache = shared.warm_cache_in(dir);
    let run = |words: &[&str]| {
        let mut command = forge(&cache);
        command.args(words).env("NO_PROXY", "127.0.0.1").env("no_proxy", "127.0.0.1");
        command
    };
    let path = site.to_str().unwrap();
    ok(run(&["key", "generate", "--no-passphrase"]).arg(site.with_file_name("release.key")));

    let told = ok(run(&["lock", path]).args(["--color", "never"]));
    assert!(told.contains("chart file:broker 1.2.3 for amd64: rendered, 0 images from registries"), "{told}");
    let lock = std::fs::read_to_string(dir.join("site/site.toml.lock")).unwrap();
    assert!(lock.contains("images = [], images-from = [\"rendered\"]"), "{lock}");
    let with = "helm v3.17.3, kubernetes v1.34.2, queue in mqtt, Cluster spec.image";
    assert!(lock.contains(&format!("rendered = \"{with}\"")), "{lock}");
    assert!(
        lock.contains("file = \"helm-v3.17.3-linux-arm64.tar.gz\""),
        "a lock is for every machine: {lock}"
    );

    // From here on nobody asks Helm: the lock says what it found, and a second lock is the same bytes.
    ok(&mut run(&["plan", path]));
    ok(&mut run(&["lock", path]));
    assert_eq!(std::fs::read_to_string(dir.join("site/site.toml.lock")).unwrap(), lock);

    // What decides the images decides whether the lock is fresh.
    let said =
        refused(run(&["build", "--locked", path]).args(["--set", "kubernetes.version=\"v1.35.0+k3s1\""]), 5);
    assert!(said.contains("chart file:broker for amd64 is not locked as it is now"), "{said}");

    // Values turn on a part whose image is asked for from then on; nobody is reached for it here.
    let values = dir.join("site/values.yaml");
    std::fs::write(&values, "edition: full\nbridge: {enabled: true, image: \"registry.example/bridge:9\"}\n")
        .unwrap();
    let said = refused(&mut run(&["build", "--offline", path]), 3);
    assert!(said.contains("image registry.example/bridge:9 is not locked, and --offline forbids"), "{said}");
    // What Helm refuses is told in its words; so is a rule that fits nothing.
    std::fs::write(
        dir.join("site/broker/templates/wrong.yaml"),
        "{{ required \"edition of the house\" .Values.none }}\n",
    )
    .unwrap();
    let said = refused(&mut run(&["lock", path]), 2);
    assert!(
        said.contains("rendering chart file:broker with helm v3.17.3")
            && said.contains("edition of the house"),
        "{said}"
    );
    std::fs::remove_file(dir.join("site/broker/templates/wrong.yaml")).unwrap();
    std::fs::remove_file(dir.join("site/broker/templates/cluster.yaml")).unwrap();
    let said = refused(&mut run(&["lock", path]), 2);
    assert!(said.contains("names the kind `Cluster`, which chart file:broker does not make"), "{said}");
}

#[test]
fn worked_charts_pass_helm_lint() {
    let Some(helm) = tool("helm") else { return };
    for entry in std::fs::read_dir("profiles/mqtt").unwrap().flatten() {
        if entry.path().join("Chart.yaml").is_file() {
            let said = ok(Command::new(&helm).args(["lint", "--strict"]).arg(entry.path()));
            assert!(said.contains("0 chart(s) failed"), "{said}");
        }
    }
}
