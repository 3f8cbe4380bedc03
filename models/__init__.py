"""Networks: VGG as the reference scripts build it, torchvision's, and the user's own."""
