//! Renderings of originals: what a transform comes to for an image, and its rendering, from memory, the store or a worker.

use std::fmt;
use std::sync::Arc;

use bytes::Bytes;
use imagewell_imaging::transform::{Crop, Fit, Gravity, Transform};
use imagewell_imaging::{Facts, Format};

use crate::app::App;
use crate::model::Image;
use crate::storage::Storage;
use crate::{Error, rendering};

/// A rendering with the format it came out in.
#[derive(Debug, Clone)]
pub struct Variant {
    /// Encoded.
    pub bytes: Bytes,
    /// As which format.
    pub format: Format,
}

/// What a transform comes to for a certain image.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub struct OfImage(Transform);

impl OfImage {
    /// What is made.
    #[must_use]
    pub fn transform(&self) -> &Transform {
        &self.0
    }
}

impl fmt::Display for OfImage {
    fn fmt(&self, out: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.fmt(out)
    }
}

/// What a transform comes to for an image: its own crop frames the one that is asked for, and its own focal point is the gravity of
/// whoever asks for no other.
#[must_use]
pub fn of_image(image: &Image, transform: &Transform) -> OfImage {
    let crop = match (image.crop, transform.crop) {
        (Some(own), Some(asked)) => Some(own.within(asked)),
        (own, asked) => own.or(asked),
    };
    let crop = crop.and_then(|crop| on_picture(image, crop));
    let gravity = match (transform.gravity, image.focus) {
        (Gravity::Focus, Some(focus)) if depends_on_focus(transform) => {
            let (x, y) = focus_within(image, crop, focus);
            Gravity::Point(x, y)
        }
        (gravity, _) => gravity,
    };
    OfImage(Transform { crop, gravity, ..*transform })
}

/// What of a crop lies on the picture, as far as its size is known; none for all of it. So what shows the same has the same name, and places
/// on a crop are places on what is shown.
fn on_picture(image: &Image, crop: Crop) -> Option<Crop> {
    let Some(facts) = image.version.facts else { return Some(crop) };
    let (width, height) = upright(&facts);
    let clamped = crop.clamped(width, height);
    (clamped != Crop { x: 0, y: 0, width, height }).then_some(clamped)
}

fn upright(facts: &Facts) -> (u32, u32) {
    if facts.orientation.swaps_sides() { (facts.height, facts.width) } else { (facts.width, facts.height) }
}

/// Whether a rendering changes with the focal point of its image.
#[must_use]
pub fn depends_on_focus(transform: &Transform) -> bool {
    matches!((transform.fit, transform.gravity), (Fit::Cover(..), Gravity::Focus))
}

/// A place on the whole picture, as one on its crop.
fn focus_within(image: &Image, crop: Option<Crop>, (x, y): (u16, u16)) -> (u16, u16) {
    let (Some(crop), Some(facts)) = (crop, image.version.facts) else { return (x, y) };
    let (width, height) = upright(&facts);
    let part = |thousandths: u16, side: u32, begin: u32, length: u32| {
        let place = u64::from(thousandths) * u64::from(side) / 1000;
        let inside = place.saturating_sub(begin.into()).min(length.into());
        u16::try_from(inside * 1000 / u64::from(length.max(1))).unwrap_or(1000)
    };
    (part(x, width, crop.x, crop.width), part(y, height, crop.y, crop.height))
}

/// Takes the rendering from memory or the store, or makes it, once however many ask.
///
/// # Errors
/// [`Error::Invalid`] when the image can't be rendered, [`Error::Busy`] and [`Error::TooMany`] when no worker is free.
pub async fn open_or_render(app: &Arc<App>, image: &Image, transform: &OfImage) -> Result<Variant, Error> {
    let key = Storage::variant_key(&image.version.blob, &transform.to_string());
    let bytes = match app.blobs.get(&key) {
        Some(bytes) => bytes,
        // Boxed, as everything that warm reads don't need.
        None => Box::pin(rendering::shared(app, image, &transform.0, &key)).await?,
    };
    app.variant_uses.note(&key, app.database.now());
    let format = Format::sniff(&bytes).map_err(|error| Error::internal("recognising a rendering", &error))?;
    Ok(Variant { bytes, format })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_images_own_crop_and_focus_count_unless_others_are_asked_for() {
        let mut image = crate::access::tests::image(1, "crew.view");
        let facts = Facts {
            format: Format::Jpeg,
            width: 400,
            height: 200,
            frames: 1,
            orientation: imagewell_imaging::Orientation::UPRIGHT,
        };
        image.version.facts = Some(facts);
        let cover = Transform::of(Fit::square(50));
        assert_eq!(of_image(&image, &cover).0, cover);
        image.focus = Some((750, 500));
        assert_eq!(of_image(&image, &cover).0.gravity, Gravity::Point(750, 500));
        let asked = Transform { gravity: Gravity::Centre, ..cover };
        assert_eq!(of_image(&image, &asked).0, asked);
        let inside = Transform::of(Fit::Inside(9, 9));
        assert_eq!(of_image(&image, &inside).0, inside, "nothing is cut off");
        image.crop = Some(Crop { x: 200, y: 0, width: 200, height: 200 });
        assert_eq!(of_image(&image, &cover).0.gravity, Gravity::Point(500, 500));
        image.crop = None;
        let asked = |x, y, width, height| {
            let crop = Some(Crop { x, y, width, height });
            let OfImage(transform) = of_image(&image, &Transform { crop, ..cover });
            (transform.crop, transform.gravity)
        };
        assert_eq!(asked(0, 0, 10_000, 10_000), (None, Gravity::Point(750, 500)), "all of it is no crop");
        let part = Some(Crop { x: 100, y: 0, width: 300, height: 200 });
        assert_eq!(asked(100, 0, 300, 200), (part, Gravity::Point(666, 500)));
        assert_eq!(asked(100, 0, 9000, 9000), asked(100, 0, 300, 200), "what lies beside the picture moves nothing");
        image.crop = Some(Crop { x: 200, y: 0, width: 200, height: 200 });
        let corner = Transform { crop: Some(Crop { x: 0, y: 0, width: 10, height: 10 }), ..inside };
        assert_eq!(of_image(&image, &corner).0.crop, Some(Crop { x: 200, y: 0, width: 10, height: 10 }));
    }
}
