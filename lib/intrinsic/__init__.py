"""Intrinsic properties of image sets: estimators, trainers and the statistics of four claims.

The modules, in import order (a module imports only those above it):

manifolds        point clouds and image families of known dimension and known label gap
interventions    image sets of which one property is set and the rest held
images           image sets: catalogue, adapters, matching, splits
selection        compiled selection of nearest points and closest pairs from tiles of products
products         points, and exact inner products or proven bounds by 8-bit, float32 and float64 products
tiles            the pairs of all points in tiles: threads, a GPU, Dask workers
neighbors        one exact pass: nearest distances, nearest opposite-label distance
dimension        intrinsic dimension: maximum likelihood, TwoNN
sharpness        label sharpness K_F, the pair that attains it, its growth
theory           the bounds of the theory chapter, with every constant
overlap          growth of K_F against that of overlapping classes
records          one run, one record: store, resume, publish
soundness        copies, near-duplicates, shortcuts and leaks: whether an image set is sound enough to ask
measurement      what is said about an image set: commands, records and report pages
checkpoints      tensors in files: whole or absent, verified, never unpickled; weights from files
models           ResNet-18/34/50, VGG-13/16/19 and others by name
training         train until fit, evaluate, continue after a kill
representations  activations of named layers, and their dimensions
attacks          FGSM, PGD and torchattacks' attacks, minimal radius, sanity checks
slope            a network's slope between images of different labels
engine           tasks -> records on processes of this machine or a Dask cluster, whatever is killed
campaign         parameter file -> grid -> runs -> tidy frames
progress         status, failures to try again, the published file
statistics       fits, exact tests, intervals and verdicts of the claims
courses          how training runs go: steps until fit, runs at chance, warm-up
forecast         loss, accuracy and labels needed from small runs
audit            the paper's choices and the corrected ones, on the same records
controlled       effects of the controlled experiments
further          tests beyond the four claims
tables           frame -> table of a page
charts           tidy frame -> chart
overview         what the records hold: the first page, coverage, the sets' pages
reference        reference pages from docstrings, --help and the schema
kernels          kernels of notebooks that start with this package loaded
book             notebooks through papermill, then the book
cli              the command `intrinsic`
"""

__version__ = "0.1.0"
