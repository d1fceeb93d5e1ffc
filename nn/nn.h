#pragma once
// Everything between tensors and a trained model: modules with named parameters, the usual layers and initialisers,
// optimisers, and data sets. All of it is written with the public ops, so a layer of your own is no different from one
// here.
#include "reprise/nn/cells.h"
#include "reprise/nn/dataset.h"
#include "reprise/nn/grad_scaler.h"
#include "reprise/nn/idx.h"
#include "reprise/nn/init.h"
#include "reprise/nn/layers.h"
#include "reprise/nn/module.h"
#include "reprise/nn/optim.h"
#include "reprise/nn/progress.h"
#include "reprise/nn/recurrent.h"
