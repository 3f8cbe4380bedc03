"""What the steps share: settings, files and manifests, deliveries, keys, training, records.

The letters in names, comments and messages are those of the authors' README and scripts:

    α, m     channels and side of an image; padding included where an image is morphed
    β, n     channels and side of the first layer's features
    D        an image, normalised, padded and unrolled to a row of αm² entries
    M        the morphing matrix, αm² × αm²: copies of the core on its diagonal
    M'       the core, q × q, secret and invertible
    κ        how many copies of the core stand on the diagonal of M: q = αm²/κ
    s        the side of square tiles in κ's place (a setting: tile): q = αs²
    t        how many tiles stand in a row of an image
    T = D·M  a morphed image: (αm²), or (q, t, t) with tiles
    C_ac     Aug-Conv, M⁻¹ times the first layer: T·C_ac are the features of D
"""
