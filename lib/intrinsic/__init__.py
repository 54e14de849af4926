"""Intrinsic properties of image sets: estimators, trainers and the statistics of four claims.

The modules, in import order (a module imports only those above it):

manifolds        point clouds and image families of known dimension and known label gap
images           image sets: catalogue, adapters, matching, splits
neighbors        one exact pass: nearest distances, nearest opposite-label distance
dimension        intrinsic dimension: maximum likelihood, TwoNN
sharpness        label sharpness K_F, the pair that attains it, its growth
models           ResNet-18/34/50, VGG-13/16/19 by name
training         train until fit, evaluate
representations  activations of a named layer
attacks          FGSM over many budgets from one gradient
records          one run, one record: store, resume, publish
campaign         parameter file -> grid -> runs -> tidy frames
statistics       fits, exact tests, intervals and verdicts of the claims
charts           tidy frame -> chart
book             notebooks through papermill, then the book
cli              the command `intrinsic`
"""

__version__ = "0.1.0"
