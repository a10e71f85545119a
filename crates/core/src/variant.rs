//! Renderings of originals: made in a worker, stored beside the blobs, disposable.

use bytes::Bytes;
use imagewell_imaging::Format;
use imagewell_imaging::transform::Transform;

use crate::Error;
use crate::app::App;
use crate::fetch::{self, Body};
use crate::model::{Image, Version};
use crate::spool::{Content, Spool};
use crate::storage::Storage;

/// A rendering with the format it came out in.
#[derive(Debug, Clone)]
pub struct Variant {
    /// Encoded.
    pub bytes: Bytes,
    /// As which format.
    pub format: Format,
}

/// Takes the rendering from the cache or makes it, once however many ask. The image's crop outweighs the transform's.
///
/// # Errors
/// [`Error::Invalid`] when the image can't be rendered, [`Error::Busy`] when no worker is free.
pub async fn open_or_render(app: &App, image: &Image, transform: &Transform) -> Result<Variant, Error> {
    // What is to be seen of an image is the image's own, whoever asks.
    let transform = &Transform { crop: image.crop, ..*transform };
    let key = Storage::variant_key(&image.version.blob, &transform.to_string());
    let bytes = app
        .blobs
        .get_or_insert_async(&key, async {
            match app.storage.read(&key).await {
                Ok(bytes) => return Ok(bytes),
                Err(Error::NotFound) => {}
                Err(error) => return Err(error),
            }
            let source = content(app, &image.version).await?;
            let bytes = app.workers.render(&source, image.version.facts.as_ref(), transform).await?;
            if app.storage.check_space(bytes.len() as u64).is_ok() {
                app.storage.put(&key, &Content::Memory(bytes.clone())).await?;
            }
            Ok::<_, Error>(bytes)
        })
        .await?;
    let format = Format::sniff(&bytes).map_err(|error| Error::internal("recognising a rendering", &error))?;
    Ok(Variant { bytes, format })
}

/// The original as something that can be read from any place.
async fn content(app: &App, version: &Version) -> Result<Content, Error> {
    match fetch::open(app, version, None).await? {
        Body::Memory(bytes) => Ok(Content::Memory(bytes)),
        Body::Stream(mut chunks) => {
            let memory_bytes_max = app.options.upload_memory_bytes_max;
            let mut spool = Spool::new(app.storage.spool_folder(), memory_bytes_max, u64::MAX);
            while let Some(chunk) = futures_util::StreamExt::next(&mut chunks).await {
                spool.write(&chunk?).await?;
            }
            Ok(spool.finish().await?.content)
        }
    }
}
