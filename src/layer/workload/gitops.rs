//! A repository that a cluster follows → the object that tells Flux or Argo CD to.
//!
//! The controllers are a workload like any other, so that their images are carried and the box reconciles by itself as
//! soon as it reaches the repository; until then it runs what the image has. Flux: `source.toolkit.fluxcd.io/v1` and
//! `kustomize.toolkit.fluxcd.io/v1`; Argo CD: `argoproj.io/v1alpha1` Application.

use serde::Serialize;
use serde_json::{Value, json};

/// The workload that the objects are deployed as.
pub const WORKLOAD: &str = "forge-gitops";

/// Who follows the repository.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
#[serde(rename_all = "kebab-case")]
pub enum Controller {
    /// Flux, in `flux-system`.
    Flux,
    /// Argo CD, in `argocd`.
    Argocd,
}

/// A repository to follow.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
#[serde(rename_all = "kebab-case")]
pub struct Gitops {
    /// Who follows it.
    pub controller: Controller,
    /// The site, which names the objects.
    pub name: String,
    /// The repository.
    pub url: String,
    /// The branch.
    pub branch: String,
    /// The directory in it, relative.
    pub path: String,
    /// Of Flux, the secret with the repository's key, in `flux-system`: a grant's.
    pub secret: Option<String>,
}

/// The objects, as a manifest.
pub fn objects(gitops: &Gitops) -> String {
    let objects = match gitops.controller {
        Controller::Flux => flux(gitops),
        Controller::Argocd => vec![argocd(gitops)],
    };
    // JSON is YAML (YAML 1.2 §1.3).
    objects
        .iter()
        .fold(String::from("# Written by forge.\n"), |text, object| format!("{text}---\n{object}\n"))
}

fn flux(gitops: &Gitops) -> Vec<Value> {
    let Gitops { name, url, branch, path, secret, .. } = gitops;
    let metadata = json!({ "name": name, "namespace": "flux-system" });
    let mut source = json!({
        "apiVersion": "source.toolkit.fluxcd.io/v1",
        "kind": "GitRepository",
        "metadata": metadata,
        "spec": { "interval": "5m", "url": url, "ref": { "branch": branch } },
    });
    if let Some(secret) = secret {
        source["spec"]["secretRef"] = json!({ "name": secret });
    }
    let follow = json!({
        "apiVersion": "kustomize.toolkit.fluxcd.io/v1",
        "kind": "Kustomization",
        "metadata": metadata,
        "spec": {
            "interval": "10m",
            "retryInterval": "1m",
            "path": format!("./{path}"),
            "prune": true,
            "sourceRef": { "kind": "GitRepository", "name": name },
        },
    });
    vec![source, follow]
}

fn argocd(gitops: &Gitops) -> Value {
    let Gitops { name, url, branch, path, .. } = gitops;
    json!({
        "apiVersion": "argoproj.io/v1alpha1",
        "kind": "Application",
        "metadata": { "name": name, "namespace": "argocd" },
        "spec": {
            "project": "default",
            "source": { "repoURL": url, "targetRevision": branch, "path": path },
            "destination": { "server": "https://kubernetes.default.svc", "namespace": "default" },
            "syncPolicy": {
                "automated": { "prune": true, "selfHeal": true },
                // A site is without a link for hours: tries go on for ever, five minutes apart at most.
                "retry": { "limit": -1, "backoff": { "duration": "10s", "factor": 2, "maxDuration": "5m" } },
            },
        },
    })
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::layer::workload::manifest;

    #[test]
    fn each_controller_is_told_in_its_own_words() {
        let mut gitops = Gitops {
            controller: Controller::Flux,
            name: "store-042".into(),
            url: "https://git.example/sites.git".into(),
            branch: "main".into(),
            path: "sites/store-042".into(),
            secret: Some("git".into()),
        };
        let kinds = |gitops: &Gitops| -> Vec<String> {
            let manifest = manifest::parse("gitops", objects(gitops).as_bytes()).unwrap();
            manifest.objects.into_iter().map(|o| o.kind).collect()
        };
        assert_eq!(kinds(&gitops), ["GitRepository", "Kustomization"]);
        let text = objects(&gitops);
        assert!(
            text.contains("\"secretRef\":{\"name\":\"git\"}") && text.contains("\"./sites/store-042\""),
            "{text}"
        );
        gitops.controller = Controller::Argocd;
        assert_eq!(kinds(&gitops), ["Application"]);
        assert!(objects(&gitops).contains("\"targetRevision\":\"main\""));
    }
}
