//! Finds the layers of a container image. If the archive contains several images, the one for this host is used.

use std::collections::HashSet;

use serde_json::Value;

use super::{Image, LAYERS};
use crate::arch::Arch;
use crate::package::PackageError;
use crate::package::file_slice::FileSlice;

/// Maximum depth of image indexes in other indexes. An archive can contain false digests, so its indexes could form a
/// loop.
const DEPTH: usize = 4;

/// Maximum number of images and image indexes that are read from one archive.
const IMAGES: usize = 1000;

/// Returns the layers of the image for this host with their names, lowest layer first.
pub(super) fn layers(image: &Image<'_>) -> Result<Vec<(String, FileSlice)>, PackageError> {
    // Archives of newer Docker versions have both files, with the same content.
    let names = if image.member("manifest.json").is_some() { docker(image)? } else { oci(image)? };
    if names.len() > LAYERS {
        return Err(image.malformed(&format!("it has more than {LAYERS} layers")));
    }
    let mut seen = HashSet::new();
    names
        .into_iter()
        .map(|name| {
            // A layer that occurs several times is verified only once.
            let is_new = seen.insert(name.clone());
            let part = if is_new { image.verified(&name)? } else { image.required(&name)? };
            Ok((name, part.clone()))
        })
        .collect()
}

/// Returns the names of the layers according to `manifest.json`: an array of images, each with the paths of its
/// configuration and its layers.
fn docker(image: &Image<'_>) -> Result<Vec<String>, PackageError> {
    let manifest = image.json("manifest.json")?;
    let images = manifest.as_array().map(Vec::as_slice).unwrap_or_default();
    let mut configurations = Vec::new();
    for one in images.iter().take(IMAGES) {
        let config = one.get("Config").and_then(Value::as_str);
        configurations.push(match config {
            // A single image is used for any architecture. Several images are distinguished by architecture.
            Some(config) if images.len() > 1 => architecture(&image.json(config)?),
            _ => None,
        });
    }
    let chosen = choose(image, &configurations)?;
    let layers = images.get(chosen).and_then(|one| one.get("Layers")).and_then(Value::as_array);
    let layers = layers.ok_or_else(|| image.malformed("manifest.json names no layers"))?;
    let names = layers.iter().map(|layer| layer.as_str().map(str::to_owned)).collect::<Option<_>>();
    names.ok_or_else(|| image.malformed("manifest.json has a layer without a path"))
}

/// Returns the names of the layers according to `index.json`, which refers to manifests by their digests, each with a
/// platform, and to nested indexes.
fn oci(image: &Image<'_>) -> Result<Vec<String>, PackageError> {
    let mut manifests = Vec::new();
    let mut remaining = IMAGES;
    collect(image, &image.json("index.json")?, DEPTH, &mut remaining, &mut manifests)?;
    let architectures: Vec<_> = manifests.iter().map(|(_, architecture)| architecture.clone()).collect();
    let chosen = choose(image, &architectures)?;
    let Some((manifest, _)) = manifests.get(chosen) else { return Ok(Vec::new()) };
    let layers = manifest.get("layers").and_then(Value::as_array);
    let layers = layers.ok_or_else(|| image.malformed("the manifest names no layers"))?;
    layers.iter().map(|layer| blob(image, layer)).collect()
}

/// Adds all manifests of the image index `index` and of its nested indexes to `manifests`, each with its architecture.
fn collect(
    image: &Image<'_>,
    index: &Value,
    depth: usize,
    remaining: &mut usize,
    manifests: &mut Vec<(Value, Option<String>)>,
) -> Result<(), PackageError> {
    if depth == 0 {
        return Err(image.malformed("its indexes form a loop"));
    }
    for descriptor in index.get("manifests").and_then(Value::as_array).into_iter().flatten() {
        let more = || image.malformed(&format!("it has more than {IMAGES} images and indexes"));
        *remaining = remaining.checked_sub(1).ok_or_else(more)?;
        let platform = descriptor.get("platform").and_then(architecture);
        // A tool may omit images for other platforms from the archive.
        let name = blob(image, descriptor)?;
        if platform.is_some() && image.member(&name).is_none() {
            continue;
        }
        let content = image.json(&name)?;
        if content.get("manifests").is_some() {
            collect(image, &content, depth - 1, remaining, manifests)?;
            continue;
        }
        let architecture = match (platform, content.get("config")) {
            (Some(platform), _) => Some(platform),
            (None, Some(config)) => architecture(&image.json(&blob(image, config)?)?),
            (None, None) => None,
        };
        manifests.push((content, architecture));
    }
    Ok(())
}

/// Returns the path of the member to which an OCI descriptor refers: `blobs/ALGORITHM/DIGEST`.
fn blob(image: &Image<'_>, descriptor: &Value) -> Result<String, PackageError> {
    let digest = descriptor.get("digest").and_then(Value::as_str);
    let (algorithm, digest) = digest
        .and_then(|digest| digest.split_once(':'))
        .ok_or_else(|| image.malformed("a descriptor has no digest"))?;
    Ok(format!("blobs/{algorithm}/{digest}"))
}

fn architecture(value: &Value) -> Option<String> {
    value.get("architecture").and_then(Value::as_str).map(str::to_owned)
}

/// Returns the position in `architectures` of the image for this host. Each image has one element there. A single image
/// is chosen whatever its architecture is.
fn choose(image: &Image<'_>, architectures: &[Option<String>]) -> Result<usize, PackageError> {
    let host = Arch::named(std::env::consts::ARCH).ok();
    let is_hosts = |name: &Option<String>| {
        let arch = name.as_deref().and_then(|name| Arch::named(name).ok());
        host.is_some() && arch == host
    };
    match (architectures, architectures.iter().position(is_hosts)) {
        (_, Some(position)) => Ok(position),
        ([_], None) => Ok(0),
        _ => Err(PackageError::Missing { path: image.path.to_owned(), member: "image for this host" }),
    }
}
