//! The dropbox: pictures that wait for somebody to take them, named by a ticket, and gone when nobody does. Putting one in is an
//! upload.

use imagewell_imaging::Facts;
use imagewell_imaging::transform::Crop;

use crate::app::App;
use crate::model::{Actor, Image, TicketNumber};
use crate::{Error, access, db};

/// The picture of a ticket. Whose it is doesn't matter: the number is the right to see it, unless the operator says otherwise.
///
/// # Errors
/// [`Error::NotFound`] when there is none, it was taken, or its time is over.
pub async fn find(app: &App, number: TicketNumber) -> Result<Image, Error> {
    db::tickets::find(&app.database, number, app.database.now()).await?.ok_or(Error::NotFound)
}

/// The picture of a ticket, for somebody who means to change or take it.
///
/// # Errors
/// As [`find`]; [`Error::NotFound`] for another org's, [`Error::Forbidden`] for another user's.
pub async fn find_own(app: &App, actor: &Actor, number: TicketNumber) -> Result<Image, Error> {
    let image = find(app, number).await?;
    access::check(actor, access::Action::Own(&image))?;
    Ok(image)
}

/// A part of a picture as it is seen: fractions of its upright width and height.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Part {
    /// Left edge.
    pub left: f64,
    /// Upper edge.
    pub top: f64,
    /// Right edge.
    pub right: f64,
    /// Lower edge.
    pub bottom: f64,
}

/// Gives a picture its crop, which every later rendering obeys. All of it is no crop.
///
/// # Errors
/// As [`find_own`]; [`Error::Invalid`] when nothing of the part lies on the picture.
pub async fn crop(app: &App, actor: &Actor, number: TicketNumber, part: impl FnOnce(u32, u32) -> Part) -> Result<(), Error> {
    let image = find_own(app, actor, number).await?;
    let (width, height) = image.version.facts.map_or((1, 1), |facts| upright(&facts));
    let crop = on_picture(part(width, height), width, height)?;
    let (id, now) = (image.id, app.database.now());
    let set = app
        .database
        .write(move |connection| Box::pin(async move { db::tickets::set_crop(connection, id, crop, now).await }))
        .await?;
    if set { Ok(()) } else { Err(Error::NotFound) }
}

/// Width and height as the picture is seen.
#[must_use]
pub fn upright(facts: &Facts) -> (u32, u32) {
    if facts.orientation.swaps_sides() { (facts.height, facts.width) } else { (facts.width, facts.height) }
}

fn on_picture(part: Part, width: u32, height: u32) -> Result<Option<Crop>, Error> {
    let edge = |fraction: f64, side: u32| (fraction * f64::from(side)).round().clamp(0.0, side.into()) as u32;
    let (left, right) = (edge(part.left, width), edge(part.right, width));
    let (top, bottom) = (edge(part.top, height), edge(part.bottom, height));
    if left >= right || top >= bottom {
        return Err(Error::invalid("nothing of the crop lies on the picture"));
    }
    let crop = Crop { x: left, y: top, width: right - left, height: bottom - top };
    Ok((crop != Crop { x: 0, y: 0, width, height }).then_some(crop))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn crops_are_rounded_and_clamped_to_the_picture() {
        let part = |left, top, right, bottom| Part { left, top, right, bottom };
        let crop = |x, y, width, height| Some(Crop { x, y, width, height });
        for (given, expected) in [
            (part(0.0, 0.0, 1.0, 1.0), None),
            (part(-3.0, -1.0, 9.0, 2.0), None),
            (part(0.25, 0.5, 0.75, 1.0), crop(25, 25, 50, 25)),
            (part(0.254, 0.0, 0.756, 5.0), crop(25, 0, 51, 50)),
            (part(0.99, 0.98, 1.5, 1.5), crop(99, 49, 1, 1)),
        ] {
            assert_eq!(on_picture(given, 100, 50).expect("on the picture"), expected, "{given:?}");
        }
        for outside in [part(1.0, 0.0, 2.0, 1.0), part(0.0, -2.0, 1.0, -1.0), part(0.5, 0.5, 0.5, 0.9), part(0.8, 0.0, 0.2, 1.0)]
        {
            assert!(on_picture(outside, 100, 50).is_err(), "{outside:?}");
        }
    }
}
