//! A registry's name to the user's credentials for it, from the files that docker and podman write.
//!
//! In order: podman's `auth.json`, docker's `config.json`, and the credential helpers that they name. No credentials
//! is an answer: most registries can be read without.

use anyhow::bail;
use docker_credential::{CredentialRetrievalError, DockerCredential};
use oci_distribution::secrets::RegistryAuth;

/// What to show `registry` (`HOST[:PORT]`).
///
/// # Errors
/// When there is an entry for it that cannot be read, or whose helper fails: going on without would only end in a
/// refusal that is harder to understand.
pub fn lookup(registry: &str) -> anyhow::Result<RegistryAuth> {
    for found in
        [docker_credential::get_podman_credential(registry), docker_credential::get_credential(registry)]
    {
        match found {
            Ok(DockerCredential::UsernamePassword(user, password)) => {
                return Ok(RegistryAuth::Basic(user, password));
            }
            Ok(DockerCredential::IdentityToken(token)) => return Ok(RegistryAuth::Bearer(token)),
            Err(
                CredentialRetrievalError::NoCredentialConfigured
                | CredentialRetrievalError::ConfigNotFound
                | CredentialRetrievalError::ConfigReadError,
            ) => {}
            Err(other) => bail!("reading the credentials for {registry}: {other}"),
        }
    }
    Ok(RegistryAuth::Anonymous)
}
