//! The demo of transforms: every step on one photograph.

use axum::extract::State;
use axum::http::HeaderMap;
use axum::response::{IntoResponse as _, Redirect, Response};
use maud::html;

use super::page;
use crate::auth::session::Session;
use crate::serve::Service;

/// Groups of transforms, with a word on each group.
const GROUPS: [(&str, &str, &[&str]); 8] = [
    (
        "Fit",
        "A picture of 512 × 512 pixels in 240 × 120.",
        &[
            "w_240,h_120,fit_inside",
            "w_240,h_120,fit_outside",
            "w_240,h_120,fit_cover",
            "w_240,h_120,fit_contain",
            "w_240,h_120,fit_contain,bg_1f6feb,g_west",
            "w_240,h_120,fit_fill",
        ],
    ),
    (
        "Gravity",
        "Which part stays.",
        &[
            "w_240,h_90,fit_cover,g_north",
            "w_240,h_90,fit_cover,g_center",
            "w_240,h_90,fit_cover,g_south",
            "w_240,h_90,fit_cover,g_0.4-0.2",
            "w_240,h_90,fit_cover,g_entropy",
            "w_240,h_90,fit_cover,g_attention",
        ],
    ),
    (
        "Crop",
        "In pixels of the original.",
        &["crop_150-10-180-180", "crop_150-10-180-180,w_90", "crop_380-60-110-260,w_240,h_160,fit_cover"],
    ),
    (
        "Turn",
        "Clockwise, then mirrored.",
        &["w_160,rotate_90", "w_160,rotate_180", "w_160,rotate_270", "w_160,flip_h", "w_160,flip_v", "w_160,rotate_90,flip_hv"],
    ),
    (
        "Size",
        "Never enlarged, unless that is asked for.",
        &["w_120", "w_120,dpr_2", "crop_200-60-60-60,w_240", "crop_200-60-60-60,w_240,enlarge"],
    ),
    ("Effects", "On the rendering's pixels.", &["w_160,blur_1.5", "w_160,blur_8", "w_160,sharpen_1", "w_160,sharpen_4"]),
    (
        "Quality",
        "Bytes against likeness.",
        &["w_160,q_5,f_jpeg", "w_160,f_jpeg", "w_160,f_jpeg,progressive", "w_160,q_95,f_jpeg"],
    ),
    (
        "Format",
        "The one that is asked for, or the client's.",
        &[
            "w_160,f_auto",
            "w_160,f_jpeg",
            "w_160,f_png",
            "w_160,f_webp",
            "w_160,f_webp,lossless",
            "w_160,f_avif",
            "w_160,f_gif",
            "w_160,f_jpeg,meta_profile,still",
        ],
    ),
];

/// Every step, shown to whoever is logged in.
pub async fn transforms(State(service): State<Service>, headers: HeaderMap) -> Response {
    let session = Session::read(&headers, &service).await;
    let (Ok(_), Some(demo)) = (session.and_then(|session| session.actor()), &service.demo) else {
        return Redirect::to("/site/login").into_response();
    };
    let Some(id) = demo.images.first().and_then(|path| path.rsplit('/').next()) else {
        return Redirect::to("/demo").into_response();
    };
    page(
        "Transforms",
        None,
        &html! {
            h1 { "Transforms" }
            p { "One photograph, " a href={ "/i/" (id) "/original" } { "as it was sent" } ", at the addresses below it. " a href="/demo" { "Back" } }
            @for (title, hint, transforms) in GROUPS {
                section {
                    h2 { (title) }
                    p.hint { (hint) }
                    div.renderings {
                        @for steps in transforms {
                            figure.rendering {
                                a href={ "/i/" (id) "/" (steps) } { img src={ "/i/" (id) "/" (steps) } alt=(steps); }
                                figcaption { code { (steps) } }
                            }
                        }
                    }
                }
            }
        },
    )
}
