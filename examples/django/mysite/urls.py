from django.urls import path

from reports import views

urlpatterns = [
    path("", views.index, name="index"),
    path("reports/<int:pk>/", views.detail, name="detail"),
]
